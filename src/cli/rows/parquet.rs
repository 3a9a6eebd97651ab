//! Rows as a Parquet file, in groups of a bounded size. Decimals are DECIMAL(38, 12), exactly
//! what the wire says or refused; moments are TIMESTAMP in microseconds of UTC; what isn't there
//! is NULL.

use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};
use prost_types::Timestamp;

use super::decimal::unscaled;
use super::file::WholeFile;
use super::sink::failed;
use super::{Kind, Rows, Shown, Value};

/// Rows in a group, which is held in memory until it is full.
const GROUP_ROWS: usize = 64 * 1024;
/// Bytes of texts in a group, however few rows they are.
const GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Of a decimal: what 16 bytes hold.
const PRECISION: i32 = 38;
const SCALE: u32 = 12;
const DECIMAL_BYTES: usize = 16;
/// Of the cells that name a row which is refused.
const NAMED_BY: usize = 4;

/// A file that rows are written to.
pub struct ParquetFile {
    writer: SerializedFileWriter<WholeFile>,
    group: Vec<Cells>,
    /// In the group.
    held: usize,
    /// In groups that are written.
    written: usize,
}

impl ParquetFile {
    /// Begins one with the columns of these rows.
    pub fn begin<M>(rows: &Rows<M>, file: WholeFile) -> std::result::Result<ParquetFile, String> {
        let path = file.path().display().to_string();
        let began = schema(rows).and_then(|schema| {
            let properties = WriterProperties::builder()
                .set_compression(Compression::SNAPPY)
                .set_created_by(concat!("rater ", env!("CARGO_PKG_VERSION")).into())
                .build();
            SerializedFileWriter::new(file, schema, Arc::new(properties))
        });
        let writer = began.map_err(|error| format!("can't write {path}: {}", words(error)))?;
        let group = rows.columns(Shown::Parquet).map(|column| Cells::new(column.kind)).collect();
        Ok(ParquetFile { writer, group, held: 0, written: 0 })
    }

    /// Takes rows, and writes a group when there is one.
    pub fn put<M>(&mut self, rows: &Rows<M>, messages: &[M]) -> std::result::Result<(), String> {
        for message in messages {
            for (column, cells) in rows.columns(Shown::Parquet).zip(&mut self.group) {
                let value = (column.get)(message);
                cells.push(&value).ok_or_else(|| {
                    let mut key = rows.cells(message, Shown::Table);
                    key.truncate(NAMED_BY);
                    failed(
                        self.writer.inner(),
                        &format!(
                            "row {} ({}): {} {} does not fit a Parquet {} exactly; write .csv or .json instead",
                            self.written + self.held + 1,
                            key.join(" "),
                            column.name,
                            value.text(),
                            if column.kind == Kind::Decimal { "DECIMAL(38, 12)" } else { "column" },
                        ),
                    )
                })?;
            }
            self.held += 1;
            let bytes: usize = self.group.iter().map(|cells| cells.bytes.len()).sum();
            if self.held >= GROUP_ROWS || bytes >= GROUP_BYTES {
                self.write_group()?;
            }
        }
        Ok(())
    }

    /// Writes what is left, and gives back the file, which still has to be put in its place.
    pub fn finish(mut self) -> std::result::Result<WholeFile, String> {
        if self.held > 0 {
            self.write_group()?;
        }
        let path = self.writer.inner().path().display().to_string();
        self.writer.into_inner().map_err(|error| format!("can't write {path}: {}", words(error)))
    }

    fn write_group(&mut self) -> std::result::Result<(), String> {
        let group = &mut self.group;
        let write = || {
            let mut writer = self.writer.next_row_group()?;
            for cells in group {
                let Some(column) = writer.next_column()? else { break };
                cells.write(column)?;
            }
            writer.close().map(drop)
        };
        let wrote = write().map_err(words);
        wrote.map_err(|error| failed(self.writer.inner(), &error))?;
        self.written += std::mem::take(&mut self.held);
        Ok(())
    }
}

/// What happened, without the library's name for it.
fn words(error: ParquetError) -> String {
    match error {
        ParquetError::External(error) => error.to_string(),
        error => error.to_string(),
    }
}

fn schema<M>(rows: &Rows<M>) -> Result<TypePtr> {
    let columns = rows.columns(Shown::Parquet).map(|column| {
        let (physical, logical) = match column.kind {
            Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Integer => (Physical::INT64, None),
            Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
            Kind::Decimal => {
                (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::decimal(SCALE.cast_signed(), PRECISION)))
            }
        };
        let mut column = Type::primitive_type_builder(&column.name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical.clone());
        if let Some(LogicalType::Decimal(_)) = logical {
            column = column
                .with_length(i32::try_from(DECIMAL_BYTES).unwrap_or_default())
                .with_precision(PRECISION)
                .with_scale(SCALE.cast_signed());
        }
        column.build().map(Arc::new)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    // "rating.v1.RatedUsage" without its package.
    let name = rows.full_name.rsplit('.').next().unwrap_or_default();
    Type::group_type_builder(name).with_fields(columns).build().map(Arc::new)
}

/// A column of a group.
struct Cells {
    kind: Kind,
    /// A cell each: 1 where there is a value.
    levels: Vec<i16>,
    /// Counts and moments.
    integers: Vec<i64>,
    /// Texts and decimals, one after the other, with where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Cells {
    fn new(kind: Kind) -> Cells {
        Cells { kind, levels: Vec::new(), integers: Vec::new(), bytes: Vec::new(), ends: Vec::new() }
    }

    /// Nothing where the value is no such value exactly.
    fn push(&mut self, value: &Value<'_>) -> Option<()> {
        match (self.kind, value) {
            (_, Value::Null) => {
                self.levels.push(0);
                return Some(());
            }
            (Kind::Integer, Value::Integer(count)) => self.integers.push(*count),
            (Kind::Time, Value::Time(time)) => self.integers.push(micros(time)?),
            (Kind::Text, Value::Text(text)) => self.push_bytes(text.as_bytes()),
            (Kind::Decimal, Value::Decimal(text)) => self.push_bytes(&unscaled(text, SCALE)?.to_be_bytes()),
            _ => return None,
        }
        self.levels.push(1);
        Some(())
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }

    /// Writes the column, and begins the next group's.
    fn write(&mut self, mut column: SerializedColumnWriter<'_>) -> Result<()> {
        let levels = Some(std::mem::take(&mut self.levels));
        let levels = levels.as_deref();
        match self.kind {
            Kind::Integer | Kind::Time => {
                let integers = std::mem::take(&mut self.integers);
                column.typed::<Int64Type>().write_batch(&integers, levels, None)?;
            }
            Kind::Text => {
                let values: Vec<ByteArray> = self.take_bytes().collect();
                column.typed::<ByteArrayType>().write_batch(&values, levels, None)?;
            }
            Kind::Decimal => {
                let values: Vec<FixedLenByteArray> = self.take_bytes().map(FixedLenByteArray::from).collect();
                column.typed::<FixedLenByteArrayType>().write_batch(&values, levels, None)?;
            }
        }
        column.close()
    }

    fn take_bytes(&mut self) -> impl Iterator<Item = ByteArray> {
        let all = ByteArray::from(std::mem::take(&mut self.bytes));
        let mut start = 0;
        std::mem::take(&mut self.ends).into_iter().map(move |end| {
            let value = all.slice(start, end - start);
            start = end;
            value
        })
    }
}

/// Microseconds since 1970, exactly.
fn micros(time: &Timestamp) -> Option<i64> {
    let nanos = i64::from(time.nanos);
    let fraction = (nanos % 1_000 == 0).then_some(nanos / 1_000)?;
    time.seconds.checked_mul(1_000_000)?.checked_add(fraction)
}
