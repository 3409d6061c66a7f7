//! The program `chancery`; everything is in the library, so that tests boot it.

fn main() -> std::process::ExitCode {
    chancery::main()
}
