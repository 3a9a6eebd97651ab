//! A letter as the text of its file: one line of JSON, whose last field is the SHA-256 of all that
//! stands before it. What was cut, changed or renamed is told from what was written.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::letter::Letter;

/// The form of the text. A letter of a later one is not touched.
const VERSION: u32 = 1;
const CHECKSUM: &str = ",\"sha256\":\"";
const END: &str = "\"}\n";

#[derive(Serialize)]
struct Written<'l> {
    version: u32,
    #[serde(flatten)]
    letter: &'l Letter,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The text of a letter's file.
pub fn encode(letter: &Letter) -> serde_json::Result<String> {
    let mut text = serde_json::to_string(&Written { version: VERSION, letter })?;
    text.pop();
    let checksum = checksum(&text);
    Ok(text + CHECKSUM + &checksum + END)
}

/// The letter that is called `id`, or what is wrong with its text.
pub fn decode(id: &str, text: &[u8]) -> Result<Letter, String> {
    let text = str::from_utf8(text).map_err(|_| "is no text")?;
    let cut = "is not a whole letter";
    let (body, sum) = text.strip_suffix(END).and_then(|text| text.rsplit_once(CHECKSUM)).ok_or(cut)?;
    if checksum(body) != sum {
        return Err("is not as it was written: its sha256 differs".into());
    }
    let json = format!("{body}}}");
    let no_letter = |error: serde_json::Error| format!("is no letter: {error}");
    let Version { version } = serde_json::from_str(&json).map_err(no_letter)?;
    if version != VERSION {
        return Err(format!("has version {version}; this program reads version {VERSION}"));
    }
    let letter: Letter = serde_json::from_str(&json).map_err(no_letter)?;
    let made = letter.content.id(letter.origin.as_deref());
    match letter.id == id && made == id {
        true => Ok(letter),
        false => Err(format!("has the name of another letter; it is {made}")),
    }
}

fn checksum(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
