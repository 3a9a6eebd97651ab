//! Rust source as far as paths go: comments and literals taken out, the rest in words, and
//! each path resolved to where it starts from.

/// A word or a mark of the source, and its line from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// The words (`use`, `crate`, …), `::`, `=>` and single marks of a source, without comments,
/// strings and characters.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut found, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        if let Some(end) = skipped(&chars, i) {
            i = end;
        } else if is_word(at(i)) {
            while is_word(at(i)) {
                i += 1;
            }
        } else {
            let pair = (at(i), at(i + 1));
            i += if pair == (':', ':') || pair == ('=', '>') { 2 } else { 1 };
        }
        let text: String = chars[start..i].iter().collect();
        if skipped(&chars, start).is_none() && !text.trim().is_empty() {
            found.push(Token { text, line });
        }
        line += chars[start..i].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The end of the comment or literal that begins here, if one does.
fn skipped(chars: &[char], i: usize) -> Option<usize> {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let line_end = || (i..chars.len()).find(|j| chars[*j] == '\n').unwrap_or(chars.len());
    match (at(i), at(i + 1)) {
        ('/', '/') => Some(line_end()),
        ('/', '*') => Some(block_comment(chars, i)),
        ('"', _) => Some(quoted(chars, i, '"')),
        // A character, and not a lifetime.
        ('\'', '\\') => Some(quoted(chars, i, '\'')),
        ('\'', _) if at(i + 2) == '\'' => Some(i + 3),
        ('r', '"' | '#') if i == 0 || !is_word(at(i - 1)) || at(i - 1) == 'b' => raw(chars, i),
        _ => None,
    }
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// `r#"…"#`; a raw identifier (`r#type`) is none.
fn raw(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let close = |j: &usize| {
        chars[*j] == '"' && chars[*j + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    Some((open + 1..chars.len()).find(close).map_or(chars.len(), |end| end + 1 + hashes))
}

/// A path of the source: from the crate's root (`crate::store::Db`), or from a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub ours: bool,
    /// The first name: a module of ours (`*` where the root itself is taken), or a library.
    pub first: String,
    pub line: usize,
}

/// Every path in a file of the module `module` (`["domain", "money"]`).
pub fn paths(tokens: &[Token], module: &[String]) -> Vec<Path> {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    // The inline modules that we are in, each with the depth of braces it closes at.
    let (mut inline, mut depth): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    for i in 0..tokens.len() {
        match text(i) {
            "mod" if text(i + 2) == "{" => inline.push((text(i + 1).into(), depth)),
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, closes)| *closes < depth);
            }
            _ => {}
        }
        let before = text(i.wrapping_sub(2));
        let goes_on = before == ">" || (before.starts_with(is_word) && before != "use");
        let follows = text(i.wrapping_sub(1)) == "::" && goes_on;
        if follows || !text(i).starts_with(is_word) {
            continue;
        }
        let line = tokens[i].line;
        if text(i) == "crate" && text(i + 1) == "as" {
            found.push(Path { ours: true, first: "*".into(), line });
        } else if text(i + 1) == "::" || text(i.wrapping_sub(1)) == "use" {
            let inside = inline.iter().map(|(name, _)| name.clone());
            let here: Vec<String> = module.iter().cloned().chain(inside).collect();
            found.extend(resolve(tokens, i, &here));
        }
    }
    found
}

/// Where the path that begins at `i` leads, a group to more than one place.
fn resolve(tokens: &[Token], mut i: usize, here: &[String]) -> Vec<Path> {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let mut base: Vec<String> = match text(i) {
        // The binary sees the library under its name.
        "crate" | "rater" => vec![],
        "self" => here.to_vec(),
        "super" => here[..here.len().saturating_sub(1)].to_vec(),
        library => return vec![Path { ours: false, first: library.into(), line: tokens[i].line }],
    };
    while text(i + 1) == "::" && text(i + 2) == "super" {
        base.pop();
        i += 2;
    }
    let ours = |first: &str, line| Path { ours: true, first: first.into(), line };
    match base.first() {
        Some(first) => vec![ours(first, tokens[i].line)],
        None if text(i + 1) != "::" => vec![],
        None if text(i + 2) == "{" => {
            group(tokens, i + 2).map(|token| ours(&token.text, token.line)).collect()
        }
        None => vec![ours(text(i + 2), tokens[i].line)],
    }
}

/// The first word of each member of the group whose brace is at `open`.
fn group(tokens: &[Token], open: usize) -> impl Iterator<Item = &Token> {
    let mut depth = 0;
    let mut after = "";
    tokens[open..]
        .iter()
        .map_while(move |token| {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let first = depth == 1 && matches!(after, "{" | ",") && token.text != "}";
            after = &token.text;
            (depth > 0).then_some((first, token))
        })
        .filter_map(|(first, token)| first.then_some(token))
}
