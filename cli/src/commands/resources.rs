//! What copies and shares ask of devices, as options.

use serde_json::{Value, json};

/// What each copy, or each share of a job, needs; of whichever class it gets.
#[derive(clap::Args, Debug)]
pub struct Resources {
    /// Accelerator classes that will do, the preferred first, e.g.
    /// `nvidia-h100-80g,nvidia-a100-80g` [default: cpu].
    #[arg(long, value_name = "CLASS,…", value_delimiter = ',')]
    class: Vec<String>,
    /// Memory of the device [default: what the model needs].
    #[arg(long, value_name = "N")]
    memory_bytes: Option<u64>,
    /// Thousandths of the device.
    #[arg(long, value_name = "N")]
    milli: Option<u32>,
}

impl Resources {
    /// Adds what is given to a request's body.
    pub fn into_body(self, body: &mut Value) {
        if let [class, alternatives @ ..] = &*self.class {
            body["resources"]["class"] = json!(class);
            body["resources"]["alternatives"] = json!(alternatives);
        }
        if let Some(bytes) = self.memory_bytes {
            body["resources"]["memory_bytes"] = json!(bytes);
        }
        if let Some(milli) = self.milli {
            body["resources"]["milli"] = json!(milli);
        }
    }
}
