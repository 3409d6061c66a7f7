//! Ports on this machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};

/// The address if nobody listens on it, else one with a free port.
pub fn keep_or_choose(kept: Option<SocketAddr>, taken: &mut Vec<u16>) -> Result<SocketAddr> {
    if let Some(kept) = kept
        && !taken.contains(&kept.port())
        && TcpListener::bind(kept).is_ok()
    {
        taken.push(kept.port());
        return Ok(kept);
    }
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
        let address = listener.local_addr().context("cannot find a free port")?;
        if !taken.contains(&address.port()) {
            taken.push(address.port());
            return Ok(address);
        }
    }
}

/// Says what to do if the address cannot be listened on.
pub fn ensure_free(listen: SocketAddr) -> Result<()> {
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => bail!(
            "port {} is in use: stop what listens there (`ss -ltnp 'sport = :{}'` names it), \
             or choose another address with --listen",
            listen.port(),
            listen.port()
        ),
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {
            bail!("{} is no address of this machine: choose another with --listen", listen.ip())
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            bail!("port {} is reserved for root: choose one above 1023 with --listen", listen.port())
        }
        Err(e) => {
            Err(e).with_context(|| format!("cannot listen on {listen}; choose another address with --listen"))
        }
    }
}

/// The URL under which this machine reaches a listener.
pub fn url_of(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let error = ensure_free(address).unwrap_err().to_string();
        assert!(error.contains(&format!("port {} is in use", address.port())), "{error}");
        assert!(error.contains("--listen"), "{error}");
        drop(taken);
        ensure_free(address).unwrap();
    }

    #[test]
    fn a_kept_port_is_kept_unless_taken() {
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut taken = Vec::new();
        assert_eq!(keep_or_choose(Some(other), &mut taken).unwrap(), other);
        assert_ne!(keep_or_choose(Some(other), &mut taken).unwrap(), other);
    }

    #[test]
    fn everywhere_is_reached_here() {
        assert_eq!(url_of(([0, 0, 0, 0], 80).into()), "http://127.0.0.1:80");
        assert_eq!(url_of("[::]:80".parse().unwrap()), "http://[::1]:80");
    }
}
