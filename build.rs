//! Compiles the contract with protox, so that no protoc is needed, and keeps its descriptor
//! set for server reflection and for proto3 JSON on the command line.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    // The query macros do not all watch their files.
    println!("cargo:rerun-if-changed=src/store/sql");
    let files = protox::compile(["rating/v1/rating.proto"], ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
