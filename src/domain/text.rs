//! Texts of other people's making, which may be of any length.

/// The start of `text` that fits into `limit` bytes, without half a character at its end.
pub fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
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
