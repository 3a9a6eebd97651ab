//! Rows of a result, whichever way they are wanted: on standard output, or in a file. A row is
//! written as it comes and never kept; a file is there whole or not at all.

use std::borrow::Cow;

use prost_types::Timestamp;

mod decimal;
pub mod file;
mod lines;
pub mod options;
mod parquet;
mod sink;

pub use options::{OutOptions, Target};
pub use sink::{Sink, Written};

/// What a column holds, for a file that has types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A count.
    Integer,
    /// An exact decimal, as the wire has it.
    Decimal,
    /// A moment.
    Time,
}

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'m> {
    /// There is none.
    Null,
    /// Of [`Kind::Text`].
    Text(Cow<'m, str>),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Decimal`], in the wire's canonical form.
    Decimal(Cow<'m, str>),
    /// Of [`Kind::Time`].
    Time(Timestamp),
}

impl Value<'_> {
    /// As tables and CSV have it; nothing where there is none.
    pub fn text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Text(text) | Value::Decimal(text) => text.to_string(),
            Value::Integer(count) => count.to_string(),
            Value::Time(time) => time.to_string(),
        }
    }
}

/// Who gets to see a column. What a table has, CSV has, too, and what CSV has, Parquet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// Everyone.
    Table,
    /// Those who keep a copy.
    Csv,
    /// Those who keep one with types, where it costs nothing to say a thing twice.
    Parquet,
}

type Get<M> = Box<dyn for<'m> Fn(&'m M) -> Value<'m> + Send + Sync>;

/// One column of rows that come as messages of the contract.
pub struct Column<M> {
    /// In Parquet: the field's name in the contract.
    name: String,
    /// In tables and CSV.
    header: String,
    kind: Kind,
    shown: Shown,
    get: Get<M>,
}

impl<M> Column<M> {
    fn new(name: &str, kind: Kind, get: Get<M>) -> Column<M> {
        Column { name: name.into(), header: name.into(), kind, shown: Shown::Table, get }
    }

    /// A column of texts; one that isn't there is empty.
    pub fn text(name: &str, get: impl Fn(&M) -> &str + Send + Sync + 'static) -> Column<M> {
        Column::new(name, Kind::Text, Box::new(move |message| Value::Text(get(message).into())))
    }

    /// A column of the contract's words: `RUN_STATE_RUNNING` as `running`.
    pub fn word(name: &str, get: impl Fn(&M) -> String + Send + Sync + 'static) -> Column<M> {
        Column::new(name, Kind::Text, Box::new(move |message| Value::Text(get(message).into())))
    }

    /// A column of counts.
    pub fn integer(name: &str, get: impl Fn(&M) -> i64 + Send + Sync + 'static) -> Column<M> {
        Column::new(name, Kind::Integer, Box::new(move |message| Value::Integer(get(message))))
    }

    /// A column of exact decimals; the wire has an empty one where there is none.
    pub fn decimal(name: &str, get: impl Fn(&M) -> &str + Send + Sync + 'static) -> Column<M> {
        let get: Get<M> = Box::new(move |message| match get(message) {
            "" => Value::Null,
            decimal => Value::Decimal(decimal.into()),
        });
        Column::new(name, Kind::Decimal, get)
    }

    /// A column of decimals that are made here.
    pub fn computed(name: &str, get: impl Fn(&M) -> Option<String> + Send + Sync + 'static) -> Column<M> {
        let value = |decimal: String| Value::Decimal(decimal.into());
        Column::new(name, Kind::Decimal, Box::new(move |message| get(message).map_or(Value::Null, value)))
    }

    /// A column of moments.
    pub fn time(name: &str, get: impl Fn(&M) -> Option<Timestamp> + Send + Sync + 'static) -> Column<M> {
        Column::new(name, Kind::Time, Box::new(move |message| get(message).map_or(Value::Null, Value::Time)))
    }

    /// Under this header in tables and CSV.
    pub fn headed(self, header: &str) -> Column<M> {
        Column { header: header.into(), ..self }
    }

    /// Shown to fewer.
    pub fn only(self, shown: Shown) -> Column<M> {
        Column { shown, ..self }
    }

    /// The same of a message inside of another one, which may be without it.
    pub fn within<N: 'static>(
        self,
        name: &str,
        inner: impl for<'m> Fn(&'m N) -> Option<&'m M> + Send + Sync + 'static,
    ) -> Column<N>
    where
        M: 'static,
    {
        let Column { header, kind, shown, get, .. } = self;
        let get: Get<N> = Box::new(move |message| inner(message).map_or(Value::Null, |inner| get(inner)));
        Column { name: name.into(), header, kind, shown, get }
    }

    /// The field's name in the contract.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The header in tables and CSV.
    pub fn header(&self) -> &str {
        &self.header
    }

    /// Whether those of `shown` see it.
    fn is_for(&self, shown: Shown) -> bool {
        self.shown <= shown
    }
}

/// The rows of one kind of message.
pub struct Rows<M> {
    /// `rating.v1.RatedUsage`.
    full_name: &'static str,
    columns: Vec<Column<M>>,
}

impl<M> Rows<M> {
    /// Rows with these columns.
    pub fn new(full_name: &'static str, columns: Vec<Column<M>>) -> Rows<M> {
        Rows { full_name, columns }
    }

    fn columns(&self, shown: Shown) -> impl Iterator<Item = &Column<M>> {
        self.columns.iter().filter(move |column| column.is_for(shown))
    }

    fn headers(&self, shown: Shown) -> Vec<&str> {
        self.columns(shown).map(Column::header).collect()
    }

    fn cells(&self, message: &M, shown: Shown) -> Vec<String> {
        self.columns(shown).map(|column| (column.get)(message).text()).collect()
    }
}
