//! The program `chancery`; everything is in the library, so that tests boot it.

/// The system's allocator takes a fifth of the API's time: futures of a
/// request are too large for what it keeps by thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    chancery::main()
}
