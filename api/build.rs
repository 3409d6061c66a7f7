//! Builds the API anew when the portal was built: its pages are embedded.

use std::path::Path;

fn main() {
    // Watching what is not there would build every time.
    let watched = if Path::new("../portal/dist").exists() { "../portal/dist" } else { "../portal" };
    println!("cargo::rerun-if-changed={watched}");
}
