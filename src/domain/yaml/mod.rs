//! Text to a small tree of nodes with places, from the YAML parser's events.
//!
//! Promises: what a [`Node`] holds is what was written, text as text (no number, boolean or
//! date is guessed from it), and each node knows whether it was quoted and where it stands.
//! Refuses here, wherever they appear in the document: syntax errors, anchors, aliases, tags,
//! merge keys, duplicate keys, keys that are not text, a second document, and whatever is
//! larger or deeper than a file of ours is. Nothing is ever expanded, so a small file stays
//! small in memory.

pub mod diagnostic;
pub(crate) mod fields;

use std::borrow::Cow;
use std::collections::HashSet;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use self::diagnostic::{Path, Place, Report, Shown, count};

/// The deepest nesting of mappings and lists.
const MAX_DEPTH: usize = 16;
/// The most nodes. A pricebook spends at least 5 bytes on each, so that a legitimate one
/// meets its limit of bytes first; one made of brackets doesn't.
const MAX_NODES: usize = 1 << 18;

/// One value of the document.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub place: Place,
    pub kind: Kind<'a>,
}

/// What a node holds.
#[derive(Debug)]
pub(crate) enum Kind<'a> {
    /// Text; `plain` is unquoted.
    Scalar {
        text: Cow<'a, str>,
        plain: bool,
    },
    List(Vec<Node<'a>>),
    Map(Vec<Entry<'a>>),
    /// Refused and reported already: nothing more is said about it.
    Refused,
}

/// A key with its value.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub place: Place,
    pub key: Cow<'a, str>,
    pub value: Node<'a>,
}

impl Node<'_> {
    /// Whether this is YAML's null: nothing at all, or an unquoted word for it.
    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if is_null(text))
    }

    /// Whether this is null, or a list or mapping without entries.
    pub fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::List(items) => items.is_empty(),
            Kind::Map(entries) => entries.is_empty(),
            Kind::Scalar { .. } | Kind::Refused => self.is_null(),
        }
    }
}

fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

/// What a document is called in messages, and what it needs.
pub(crate) struct Words {
    /// "pricebook".
    pub noun: &'static str,
    /// What an empty one lacks.
    pub least: &'static str,
    /// How deep one goes.
    pub depth: usize,
}

/// Reads the one document of `text`. `None` when there is nothing to check further; what is
/// wrong is in the report.
pub(crate) fn read<'a>(text: &'a str, words: &Words, report: &mut Report) -> Option<Node<'a>> {
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_anchor_events: true,
        emit_comments: false,
        emit_unresolved_aliases: true,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { parser, peeked: None, words, report, nodes: 0 };
    // A stop has been reported where it happened.
    reader.document().unwrap_or_default()
}

/// Reading can't go on; the reason is in the report.
struct Stop;

type Read<T> = Result<T, Stop>;

struct Reader<'a, 'r> {
    parser: Parser<'a, StrInput<'a>>,
    peeked: Option<(Event<'a>, Span)>,
    words: &'r Words,
    report: &'r mut Report,
    nodes: usize,
}

impl<'a> Reader<'a, '_> {
    fn document(&mut self) -> Read<Option<Node<'a>>> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(..) if root.is_some() => {
                    let noun = self.words.noun;
                    let message = format_args!("a {noun} is one document; take away what follows \"---\"");
                    self.report.stop("multiple_documents", place(&span), &Path::Root, message);
                    break;
                }
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, &Path::Root, 0)?);
                }
                _ => {}
            }
        }
        let root = root.filter(|node| !node.is_null());
        if root.is_none() {
            let Words { noun, least, .. } = self.words;
            let message = format_args!("the {noun} is empty; it needs at least {least}");
            self.report.error("empty_document", Place::START, &Path::Root, message);
        }
        Ok(root)
    }

    /// The node that `event` begins. `depth` is the number of collections around it.
    fn node(&mut self, event: Event<'a>, span: Span, path: &Path<'_>, depth: usize) -> Read<Node<'a>> {
        let at = place(&span);
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format_args!("more than {MAX_NODES} values; no {} needs as many", self.words.noun);
            self.report.stop("too_many_nodes", at, path, message);
            return Err(Stop);
        }
        let tagged = event.tag().is_some();
        if tagged {
            let at = span.tag_start.map_or(at, |mark| marked(mark.line(), mark.col()));
            self.report.error("tag", at, path, "tags are not read; take it away, and quote text instead");
        }
        self.anchor(path)?;
        let kind = match event {
            // What a tag does to a text is unknown, so nothing is concluded from it.
            Event::Scalar(..) if tagged => Kind::Refused,
            Event::Scalar(text, style, ..) => {
                // The parser's word for "nothing there" is the same as an explicit null.
                let empty = span.start.index() == span.end.index() && style == ScalarStyle::Plain;
                let text = if empty { Cow::Borrowed("") } else { text };
                Kind::Scalar { text, plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => self.list(at, path, depth + 1)?,
            Event::MappingStart(..) => self.map(at, path, depth + 1)?,
            // An alias; whatever else can't begin a node.
            _ => {
                self.report.error("alias", at, path, "aliases are not followed; write the value out");
                Kind::Refused
            }
        };
        Ok(Node { place: at, kind })
    }

    /// An anchor's event follows the node that it names, before that node's children.
    fn anchor(&mut self, path: &Path<'_>) -> Read<()> {
        if let (Event::Anchor(..), span) = self.peek()? {
            let at = place(span);
            self.peeked = None;
            self.report.error("anchor", at, path, "anchors are not read; take it away");
        }
        Ok(())
    }

    fn list(&mut self, at: Place, path: &Path<'_>, depth: usize) -> Read<Kind<'a>> {
        self.limit_depth(at, path, depth)?;
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Kind::List(items));
            }
            let path = path.index(items.len());
            items.push(self.node(event, span, &path, depth)?);
        }
    }

    fn map(&mut self, at: Place, path: &Path<'_>, depth: usize) -> Read<Kind<'a>> {
        self.limit_depth(at, path, depth)?;
        let mut entries: Vec<Entry<'a>> = Vec::new();
        let mut seen: HashSet<Cow<'a, str>> = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Kind::Map(entries));
            }
            let key = self.node(event, span, path, depth)?;
            let place = key.place;
            let key = self.key(key, path);
            let (event, span) = self.next()?;
            let child = path.key(key.as_deref().unwrap_or("?"));
            let mut value = self.node(event, span, &child, depth)?;
            if matches!(&value.kind, Kind::Scalar { text, plain: true } if text.is_empty()) {
                // Nothing is written there; its key is where to look.
                value.place = place;
            }
            let text = key.as_deref().unwrap_or_default();
            if key.as_ref().is_some_and(|key| !seen.insert(key.clone())) {
                let message = format_args!("{} is already given above; keep one of them", Shown(text));
                self.report.error("duplicate_key", place, &child, message);
            }
            let Some(key) = key else { continue };
            entries.push(Entry { place, key, value });
        }
    }

    /// A key's text, or none when it is refused.
    fn key(&mut self, key: Node<'a>, path: &Path<'_>) -> Option<Cow<'a, str>> {
        match key.kind {
            Kind::Refused => None,
            Kind::Scalar { text, plain: true } if text == "<<" => {
                let message = "merge keys are not followed; write the entries out";
                self.report.error("merge_key", key.place, &path.key("<<"), message);
                None
            }
            Kind::Scalar { text, plain } if !plain || text.is_empty() || !is_null(&text) => Some(text),
            Kind::Scalar { .. } | Kind::List(_) | Kind::Map(_) => {
                self.report.error("bad_key", key.place, path, "a key is a text; quote it");
                None
            }
        }
    }

    fn limit_depth(&mut self, at: Place, path: &Path<'_>, depth: usize) -> Read<()> {
        if depth <= MAX_DEPTH {
            return Ok(());
        }
        self.too_deep(at, path);
        Err(Stop)
    }

    fn too_deep(&mut self, at: Place, path: &Path<'_>) {
        let Words { noun, depth, .. } = self.words;
        let message = format_args!("nested deeper than {MAX_DEPTH}; a {noun} needs {depth}");
        self.report.stop("nested_too_deep", at, path, message);
    }

    fn peek(&mut self) -> Read<&(Event<'a>, Span)> {
        let next = match self.peeked.take() {
            Some(next) => next,
            None => self.pull()?,
        };
        Ok(self.peeked.insert(next))
    }

    fn next(&mut self) -> Read<(Event<'a>, Span)> {
        match self.peeked.take() {
            Some(next) => Ok(next),
            None => self.pull(),
        }
    }

    fn pull(&mut self) -> Read<(Event<'a>, Span)> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                self.syntax(&error);
                Err(Stop)
            }
            // Unreachable while a stream end is waited for; fail closed all the same.
            None => {
                self.report.stop("yaml_syntax", Place::START, &Path::Root, "the document has no end");
                Err(Stop)
            }
        }
    }

    fn syntax(&mut self, error: &ScanError) {
        let at = marked(error.marker().line(), error.marker().col());
        match error.kind() {
            // The scanner reads ahead of the events, and has its own limit.
            ErrorKind::RecursionLimitExceeded => self.too_deep(at, &Path::Root),
            ErrorKind::DirectiveDisallowed => {
                let message = "directives are not read; begin with version";
                self.report.stop("directive", at, &Path::Root, message);
            }
            kind => {
                let message = format_args!("not YAML: {kind}");
                self.report.stop("yaml_syntax", at, &Path::Root, message);
            }
        }
    }
}

fn place(span: &Span) -> Place {
    marked(span.start.line(), span.start.col())
}

/// The parser counts lines from 1 and columns from 0.
fn marked(line: usize, column: usize) -> Place {
    Place { line: count(line).max(1), column: count(column + 1) }
}
