//! Searching memory entries by their words.
//!
//! A search counts how many entries have each of its words, up to a bound, and then looks at the entries of the rarest
//! one: whether they have the others, and how often. Both cost the same however many entries there are. Where even the
//! rarest word is in more entries than the bound, those that were made last are looked at, and the answer says so.
//!
//! Every look goes into an index by `namespace, word, place` or by `namespace, place, word`. They are subqueries with one
//! value each, and not joins, for which PostgreSQL would read whole tables as long as it has no statistics.

use super::{TABLE, about_from_row};
use crate::{
    Timestamp,
    db::{
        Db, DbError, Doing,
        sql::{Cause, Row, Sql, Value, values},
    },
    limits::{INLINE_BYTES_MAX, MEMORY_FOUND_MAX, MEMORY_SEARCHED_MAX},
    memory::{Found, Hit, Query, end_of_prefix},
    policy::{Permit, Read},
};

impl Db {
    /// The entries that have all words of a query, at most `limit`, and never more than [`MEMORY_FOUND_MAX`]. Those come
    /// first that have the rarer words, and have them more often; of equals, the one that was made last.
    pub async fn search_memory(&self, permit: &Permit<Read>, query: Query, limit: usize) -> Result<Found, DbError> {
        let passed = self.now().surely();
        self.read_in(permit.namespace(), async move |db, namespace| {
            let search = Search { namespace, passed, words: words(query) };
            search.run(db, limit.min(MEMORY_FOUND_MAX)).await
        })
        .await
    }
}

/// A word that is looked for: itself, or all that begin with it and come before the end.
enum Word {
    Whole(String),
    Prefix(String, Option<String>),
}

fn words(query: Query) -> Vec<Word> {
    let end = end_of_prefix(&query.prefix);
    query.whole.into_iter().map(Word::Whole).chain([Word::Prefix(query.prefix, end)]).collect()
}

/// A statement in the making. Its values are numbered as they come in its text.
#[derive(Default)]
struct Values<'a>(Vec<Value<'a>>);

impl<'a> Values<'a> {
    fn put(&mut self, value: impl Into<Value<'a>>) -> String {
        self.0.push(value.into());
        format!("${}", self.0.len())
    }

    /// The condition that a row of `memory_word` has a word.
    fn is(&mut self, word: &'a Word) -> String {
        match word {
            Word::Whole(word) => format!("word = {}", self.put(word)),
            Word::Prefix(word, None) => format!("word >= {}", self.put(word)),
            Word::Prefix(word, Some(end)) => format!("word >= {} and word < {}", self.put(word), self.put(end)),
        }
    }

    /// The rows of `memory_word` for a word, by word and then the newest entry first, up to the bound.
    fn rows(&mut self, what: &str, namespace: i64, word: &'a Word) -> String {
        format!(
            "select {what} from memory_word where namespace = {} and {} order by word, place limit {MEMORY_SEARCHED_MAX}",
            self.put(namespace),
            self.is(word)
        )
    }
}

struct Search {
    namespace: i64,
    /// What had expired by then is not there.
    passed: Timestamp,
    words: Vec<Word>,
}

/// An entry that is looked at.
struct Candidate {
    place: i64,
    /// How often it has each of the words.
    counts: Vec<i64>,
}

impl Search {
    async fn run(&self, db: &mut Sql<'_>, limit: usize) -> Result<Found, DbError> {
        let (found, entries) = self.count(db).await.doing("count the words of a search")?;
        let rarest = (0..found.len()).min_by_key(|word| found[*word]).unwrap_or(0);
        if found.get(rarest).is_none_or(|count| *count == 0) {
            return Ok(Found { is_complete: true, ..Found::default() });
        }
        let candidates = self.candidates(db, rarest).await.doing("look for memory entries")?;
        let weights: Vec<f64> = found.iter().map(|found| (1.0 + real(entries) / real(*found)).ln()).collect();
        let score = |candidate: &Candidate| -> f64 {
            let each = candidate.counts.iter().zip(&weights);
            each.map(|(count, weight)| weight * (1.0 + real(*count).ln())).sum()
        };
        let mut scored: Vec<(f64, i64)> =
            candidates.iter().map(|candidate| (score(candidate), candidate.place)).collect();
        scored.sort_by(|(a, a_place), (b, b_place)| b.total_cmp(a).then(a_place.cmp(b_place)));
        let total = scored.len();
        scored.truncate(limit);
        let hits = self.hits(db, scored).await.doing("read memory entries")?;
        let is_complete = found[rarest] < i64::try_from(MEMORY_SEARCHED_MAX).unwrap_or(i64::MAX);
        Ok(Found { hits, total, is_complete })
    }

    /// How many entries have each word, up to the bound, and how many entries there are.
    async fn count(&self, db: &mut Sql<'_>) -> Result<(Vec<i64>, i64), Cause> {
        let mut values = Values::default();
        let count = |word| format!("(select count(*) from ({}) as found)", values.rows("place", self.namespace, word));
        let counts: Vec<String> = self.words.iter().map(count).collect();
        let sql =
            format!("select {}, memories from namespace where id = {}", counts.join(", "), values.put(self.namespace));
        let read = |row: &Row<'_>| {
            let counts: Result<Vec<i64>, Cause> = self.words.iter().map(|_| row.next()).collect();
            Ok((counts?, row.next()?))
        };
        Ok(db.all(&sql, &values.0, read).await?.pop().unwrap_or_default())
    }

    /// The entries that have all words: of those with the rarest one, up to the bound, the newest.
    async fn candidates(&self, db: &mut Sql<'_>, rarest: usize) -> Result<Vec<Candidate>, Cause> {
        let mut values = Values::default();
        let is_there = format!(
            "(select 1 from memory m where m.namespace = {} and m.place = found.place
                and (m.expires is null or m.expires > {}))",
            values.put(self.namespace),
            values.put(self.passed.0)
        );
        let mut counts = Vec::with_capacity(self.words.len());
        for (n, word) in self.words.iter().enumerate() {
            if n == rarest {
                counts.push("count".to_owned());
                continue;
            }
            counts.push(format!(
                "(select cast(sum(w.count) as bigint) from memory_word w
                    where w.namespace = {} and w.place = found.place and {})",
                values.put(self.namespace),
                values.is(word)
            ));
        }
        let sql = format!(
            "select place, {is_there}, {} from (
                select place, cast(sum(count) as bigint) as count from ({}) as rows_of_word group by place) as found",
            counts.join(", "),
            values.rows("place, count", self.namespace, &self.words[rarest])
        );
        let read = |row: &Row<'_>| {
            let (place, is_there) = (row.next()?, row.next::<Option<i32>>()?.is_some());
            let counts: Result<Vec<Option<i64>>, Cause> = self.words.iter().map(|_| row.next()).collect();
            let counts: Option<Vec<i64>> = counts?.into_iter().collect();
            Ok(counts.filter(|_| is_there).map(|counts| Candidate { place, counts }))
        };
        Ok(db.all(&sql, &values.0, read).await?.into_iter().flatten().collect())
    }

    /// The entries at these places, with the values of those that are small. What is gone by now is left out.
    async fn hits(&self, db: &mut Sql<'_>, scored: Vec<(f64, i64)>) -> Result<Vec<Hit>, Cause> {
        let sql = TABLE.select_small(&format!("place {}", db.any(2)));
        let places: Vec<i64> = scored.iter().map(|(_, place)| *place).collect();
        let read = |row: &Row<'_>| {
            let (about, place) = about_from_row(row)?;
            let bytes = usize::try_from(about.bytes)?.saturating_sub(about.key.len());
            let value = row.next_value()?.filter(|_| bytes <= INLINE_BYTES_MAX);
            Ok((place, about, value))
        };
        let mut found = db.all(&sql, values![self.namespace, places], read).await?;
        let hit = |(score, place)| {
            let at = found.iter().position(|(found, ..)| *found == place)?;
            let (_, about, value) = found.swap_remove(at);
            Some(Hit { about, value, score })
        };
        Ok(scored.into_iter().filter_map(hit).collect())
    }
}

fn real(count: i64) -> f64 {
    count as f64
}
