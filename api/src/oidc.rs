//! OpenID Connect: issuers' keys, the tokens they sign, and signing in with them.
//!
//! Nothing here trusts a token before its signature, its issuer's pinned
//! algorithms and every required claim are checked; each refusal has its own
//! name for the log, and the caller hears only that the credential is not valid.

pub mod discovery;
pub mod fetch;
pub mod jwks;
pub mod keys;
pub mod login;
mod strict;
pub mod tokens;

#[cfg(test)]
mod testing;
