//! Texts of other people's making, which may be of any length and any form.

/// The start of `text` that fits into `limit` bytes, without half a character at its end.
pub fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Whether it is a SHA-256 as this project writes it: 64 hex digits in lower case.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Text from elsewhere without control characters, which could break a line or steer a
/// terminal.
pub fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_debug())
        } else {
            out.push(c)
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("price", 5), "price");
        assert_eq!(cut("price", 4), "pric");
        assert_eq!(cut("é€", 4), "é");
        assert_eq!(cut("€", 2), "");
        assert_eq!(cut("", 0), "");
    }
}
