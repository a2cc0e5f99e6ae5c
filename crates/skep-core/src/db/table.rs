//! Tables whose rows are entities. The columns of an entity are listed once, next to the functions that turn it into a
//! row and back; the statements that load, add and save it are made from that list.
//!
//! ```text
//!   COLUMNS ──▶ select …, insert …, update …
//!           ──▶ values_of(&entity) gives one value for each, in this order
//!           ──▶ from_row(row) reads them, in this order
//! ```

use super::{
    Tx,
    sql::{Cause, Value, values},
};
use crate::Json;

/// A column of an entity. Beside them, each table has the number of its namespace.
pub(super) struct Column {
    name: &'static str,
    /// Whether it is written again when the entity is saved.
    changes: bool,
    /// What the database makes it of when a row is added, instead of a value; the namespace is `$1`.
    made_of: Option<&'static str>,
    /// Whether it is an integer, and not text. Said of columns that change.
    is_integer: bool,
    /// Whether it is JSON that may be large. Then there is a second column, the name of a blob (`blobs.rs`).
    is_json: bool,
}

impl Column {
    /// A column that stays as it is.
    pub(super) const fn fixed(name: &'static str) -> Column {
        Column { name, changes: false, made_of: None, is_integer: false, is_json: false }
    }

    /// A column that stays as the database has made it of this expression, in which the namespace is `$1`.
    pub(super) const fn made(name: &'static str, of: &'static str) -> Column {
        Column { name, changes: false, made_of: Some(of), is_integer: false, is_json: false }
    }

    /// A column that changes.
    pub(super) const fn changing(name: &'static str) -> Column {
        Column { name, changes: true, made_of: None, is_integer: false, is_json: false }
    }

    /// The same for integers.
    pub(super) const fn integer(self) -> Column {
        Column { is_integer: true, ..self }
    }

    /// The same for JSON that may be large.
    pub(super) const fn json(self) -> Column {
        Column { is_json: true, ..self }
    }

    /// The columns of the table that it takes.
    fn names(&self) -> Vec<String> {
        if self.is_json { vec![self.name.to_owned(), self.blob()] } else { vec![self.name.to_owned()] }
    }

    /// The column with the hash of the blob.
    fn blob(&self) -> String {
        format!("{}_blob", self.name)
    }

    /// What a `select` asks for. Of JSON, a text and the bytes of its blob, as `Row::next_value` reads them.
    fn whole(&self, table: &str) -> String {
        let Column { name, is_json: true, .. } = self else { return self.name.to_owned() };
        let blob = self.blob();
        format!(
            "{name}, case when {blob} is not null then
                (select bytes from blob where blob.namespace = {table}.namespace and blob.sha256 = {table}.{blob}) end"
        )
    }

    /// The same, but for large JSON an empty text.
    fn small(&self) -> String {
        let Column { name, is_json: true, .. } = self else { return self.name.to_owned() };
        format!("case when {} is null then {name} else '\"\"' end, cast(null as bytea)", self.blob())
    }
}

/// A table, and its statements. An entity's first column is its id.
pub(super) struct Table {
    pub(super) name: &'static str,
    columns: &'static [Column],
    /// What its `select`s ask for: everything; no large JSON; no JSON.
    whole: String,
    small: String,
    plain: String,
    load: String,
    insert: String,
    /// The same, which returns the columns that the database makes.
    insert_made: String,
    /// A `select` of those columns as they are made, by the namespace.
    made: String,
    /// Writes every column that changes.
    update: Update,
}

/// The statements that write some columns of a row, by its id.
pub(super) struct Update {
    /// Which of the table's columns, in the order of the table.
    written: Vec<&'static Column>,
    /// How many values a row of it has, but for its key.
    width: usize,
    one: String,
    /// The same for several rows, on PostgreSQL.
    several: String,
}

impl Table {
    pub(super) fn new(name: &'static str, columns: &'static [Column]) -> Table {
        let whole: Vec<String> = columns.iter().map(|column| column.whole(name)).collect();
        let small: Vec<String> = columns.iter().map(Column::small).collect();
        let plain: Vec<&str> = columns.iter().filter(|column| !column.is_json).map(|column| column.name).collect();

        let given = columns.iter().filter(|column| column.made_of.is_none());
        let mut names: Vec<String> = given.flat_map(Column::names).collect();
        let mut places: Vec<String> = (1..=names.len() + 1).map(|n| format!("${n}")).collect();
        let made = columns.iter().filter_map(|column| Some((column.name, column.made_of?)));
        let made_names: Vec<&str> = made.clone().map(|(name, _)| name).collect();
        names.extend(made.clone().map(|(name, _)| name.to_owned()));
        places.extend(made.clone().map(|(_, of)| of.to_owned()));
        let made = format!("select {}", made.map(|(_, of)| of).collect::<Vec<_>>().join(", "));
        let insert = format!(
            "insert into {name} (namespace, {}) values ({}) on conflict do nothing",
            names.join(", "),
            places.join(", ")
        );
        let insert_made = format!("{insert} returning {}", made_names.join(", "));

        let update = Update::new(name, columns, |column| column.changes);
        let (whole, small, plain) = (whole.join(", "), small.join(", "), plain.join(", "));
        let load = format!("select {whole} from {name} where namespace = $1 and id = $2");
        Table { name, columns, whole, small, plain, load, insert, insert_made, made, update }
    }

    /// Statements that write only these columns, named in the order of the table, where the others are as they were when
    /// the entity was loaded. What SQLite spends on a row grows with the columns that are written, and with the indexes in
    /// which they are.
    pub(super) fn update_of(&self, names: &[&str]) -> Update {
        let update = Update::new(self.name, self.columns, |column| column.changes && names.contains(&column.name));
        debug_assert!(update.written.iter().map(|column| column.name).eq(names.iter().copied()), "{names:?}");
        update
    }

    /// The `select` of one whole entity by its namespace, `$1`, and its id, `$2`.
    pub(super) fn load(&self) -> &str {
        &self.load
    }

    /// A `select` of whole entities by a condition on their namespace, which is `$1`, and others.
    pub(super) fn select(&self, which: &str) -> String {
        format!("select {} from {} where namespace = $1 and {which}", self.whole, self.name)
    }

    /// The same, with another column behind those of the entity.
    pub(super) fn select_and(&self, more: &str, which: &str) -> String {
        format!("select {}, {more} from {} where namespace = $1 and {which}", self.whole, self.name)
    }

    /// The same, but large JSON is read as an empty text.
    pub(super) fn select_small(&self, which: &str) -> String {
        format!("select {} from {} where namespace = $1 and {which}", self.small, self.name)
    }

    /// The same without the columns that are JSON.
    pub(super) fn select_without_json(&self, which: &str) -> String {
        format!("select {} from {} where namespace = $1 and {which}", self.plain, self.name)
    }

    /// The columns that name blobs, as a `select` or `returning` lists them.
    pub(super) fn blobs_listed(&self) -> String {
        self.blobs().collect::<Vec<_>>().join(", ")
    }

    /// The columns that name blobs.
    pub(super) fn blobs(&self) -> impl Iterator<Item = String> {
        self.columns.iter().filter(|column| column.is_json).map(Column::blob)
    }
}

impl Update {
    fn new(name: &str, columns: &'static [Column], is_written: impl Fn(&Column) -> bool) -> Update {
        let written: Vec<&Column> = columns.iter().filter(|column| is_written(column)).collect();
        let names: Vec<String> = written.iter().flat_map(|column| column.names()).collect();
        let set: Vec<String> = (1..).zip(&names).map(|(n, column)| format!("{column} = ${n}")).collect();
        let one = format!(
            "update {name} set {} where namespace = ${} and id = ${}",
            set.join(", "),
            names.len() + 1,
            names.len() + 2
        );
        let arrays = written.iter().flat_map(|column| {
            let array = if column.is_integer { "bigint[]" } else { "text[]" };
            vec![array; column.names().len()]
        });
        let arrays: Vec<String> = (3..).zip(arrays).map(|(n, array)| format!("${n}::{array}")).collect();
        let set: Vec<String> = names.iter().map(|column| format!("{column} = new.{column}")).collect();
        let several = format!(
            "update {name} set {} from unnest($2::text[], {}) as new (id, {}) \
             where {name}.namespace = $1 and {name}.id = new.id",
            set.join(", "),
            arrays.join(", "),
            names.join(", ")
        );
        Update { width: names.len(), written, one, several }
    }
}

impl Tx<'_> {
    /// Add a row, and what of its JSON is large. `false` if there is one of this id already.
    pub(super) async fn insert<const N: usize>(
        &mut self,
        table: &Table,
        values: [Value<'_>; N],
    ) -> Result<bool, Cause> {
        let (row, large) = new_row(self.namespace(), table, values);
        let is_new = self.has_changed(&table.insert, &row).await?;
        for json in large.iter().filter(|_| is_new) {
            self.add_blob(json).await?;
        }
        Ok(is_new)
    }

    /// Add rows to a table with a column that the database makes. Returns that of each; `None` if there is a row of its
    /// id already.
    pub(super) async fn insert_made<'a, const N: usize>(
        &mut self,
        table: &Table,
        rows: impl Iterator<Item = [Value<'a>; N]>,
    ) -> Result<Vec<Option<i64>>, Cause> {
        let (namespace, mut large) = (self.namespace(), Vec::new());
        // Each row is made when the database wants it, so that it is still in the processor's cache.
        let rows = rows.enumerate().map(|(n, values)| {
            let (row, large_of_row) = new_row(namespace, table, values);
            large.extend(large_of_row.into_iter().map(|json| (n, json)));
            row
        });
        let made: Vec<Option<i64>> = if self.sql.answers_at_once() {
            // SQLite keeps what it returns in a table of its own until the statement ends, and to make that one takes
            // longer than a second statement.
            let counts = self.count_each(&table.insert, rows).await?;
            let made = self.first(&table.made, values![namespace], |row| row.next()).await?;
            counts.into_iter().map(|count| made.filter(|_| count > 0)).collect()
        } else {
            self.changed = true;
            self.first_of_each(&table.insert_made, rows, |row| row.next()).await?
        };
        for (n, json) in &large {
            if made.get(*n).is_some_and(Option::is_some) {
                self.add_blob(json).await?;
            }
        }
        Ok(made)
    }

    /// Write what changes of a row, and what of its JSON is large.
    pub(super) async fn update<const N: usize>(
        &mut self,
        table: &Table,
        id: &str,
        values: [Value<'_>; N],
    ) -> Result<(), Cause> {
        let changing = table.columns.iter().zip(values).filter(|(column, _)| column.changes).map(|(_, value)| value);
        self.update_several(&table.update, [(id, changing)].into_iter()).await
    }

    /// Write some columns of several rows, each with its id: the values of those that `update` writes.
    pub(super) async fn update_several<'a>(
        &mut self,
        update: &Update,
        rows: impl ExactSizeIterator<Item = (&'a str, impl IntoIterator<Item = Value<'a>>)>,
    ) -> Result<(), Cause> {
        let (namespace, count, mut large) = (self.namespace(), rows.len(), Vec::new());
        let mut rows = rows.map(|(id, values)| {
            let mut row = Vec::with_capacity(update.width + 2);
            large.extend(add_values(&mut row, update.written.iter().copied().zip(values)));
            (row, id)
        });
        if count < 2 || self.sql.answers_at_once() {
            let whole = |(mut row, id): (Vec<Value<'a>>, &'a str)| {
                row.extend([Value::from(namespace), Value::from(id)]);
                row
            };
            self.execute_each(&update.one, rows.map(whole)).await?;
        } else {
            let (mut ids, mut arrays) = (Vec::with_capacity(count), vec![Vec::with_capacity(count); update.width]);
            for (row, id) in &mut rows {
                ids.push(id);
                arrays.iter_mut().zip(row).for_each(|(array, value)| array.push(value));
            }
            let are_integers = update.written.iter().flat_map(|column| vec![column.is_integer; column.names().len()]);
            let of_column =
                |(array, are_integers)| if are_integers { Value::integers(array) } else { Value::texts(array) };
            let mut values = vec![Value::from(namespace), Value::from(ids)];
            values.extend(arrays.into_iter().zip(are_integers).map(of_column));
            self.execute(&update.several, &values).await?;
        }
        for json in &large {
            self.add_blob(json).await?;
        }
        Ok(())
    }
}

/// A new row as its columns have it, and what of it becomes blobs.
fn new_row<'a, const N: usize>(namespace: i64, table: &Table, values: [Value<'a>; N]) -> (Vec<Value<'a>>, Vec<Json>) {
    let given = table.columns.iter().zip(values).filter(|(column, _)| column.made_of.is_none());
    let mut row = Vec::with_capacity(2 * N + 1);
    row.push(Value::from(namespace));
    let large = add_values(&mut row, given);
    (row, large)
}

/// Add values to a row as its columns have them. Returns those that become blobs.
fn add_values<'a>(row: &mut Vec<Value<'a>>, values: impl Iterator<Item = (&'static Column, Value<'a>)>) -> Vec<Json> {
    let mut large = Vec::new();
    for (column, value) in values {
        match value {
            Value::Json(json) if column.is_json && json.is_large() => {
                row.extend([Value::from(""), Value::from(json.sha256().to_owned())]);
                large.push(json);
            }
            value if column.is_json => row.extend([value, Value::Null]),
            value => row.push(value),
        }
    }
    large
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_have_the_columns_in_the_order_of_the_list() {
        const COLUMNS: [Column; 5] = [
            Column::fixed("id"),
            Column::made("born", "(select $1)"),
            Column::changing("state"),
            Column::fixed("input").json(),
            Column::changing("result").json(),
        ];
        let table = Table::new("t", &COLUMNS);
        assert_eq!(
            table.insert,
            "insert into t (namespace, id, state, input, input_blob, result, result_blob, born) \
             values ($1, $2, $3, $4, $5, $6, $7, (select $1)) on conflict do nothing"
        );
        assert_eq!(
            table.update.one,
            "update t set state = $1, result = $2, result_blob = $3 where namespace = $4 and id = $5"
        );
        assert_eq!(
            table.update.several,
            "update t set state = new.state, result = new.result, result_blob = new.result_blob \
             from unnest($2::text[], $3::text[], $4::text[], $5::text[]) as new (id, state, result, result_blob) \
             where t.namespace = $1 and t.id = new.id"
        );
        assert_eq!(table.update_of(&["state"]).one, "update t set state = $1 where namespace = $2 and id = $3");
        assert_eq!(
            table.select_without_json("id = $2"),
            "select id, born, state from t where namespace = $1 and id = $2"
        );
        assert_eq!(table.insert_made, format!("{} returning born", table.insert));
        assert_eq!(table.made, "select (select $1)");
        assert_eq!(table.blobs_listed(), "input_blob, result_blob");
    }
}
