//! Claims as rows. What they mean is decided in [`crate::claim`], of rows that are loaded: all of a workspace for a new
//! claim, because globs overlap in ways that no index knows, and those that may be on one path for a write.

use std::sync::Arc;

use super::{
    Db, DbError, Doing, Tx,
    events::page,
    sql::{Cause, Row, Select, Value, values},
};
use crate::{
    Timestamp,
    claim::{CLOCKS_APART_MAX, Claim, ClaimToken},
    file::Author,
    glob::Pattern,
    limits::PAGE_MAX,
    path::FilePath,
    policy::{Permit, Read},
};

/// The columns of a claim, in the order of [`from_row`].
const COLUMNS: &str = "token, pattern, is_shared, is_held, principal, agent, at, renewed, until";

/// What the audit has to say about claims: namespace, subject, and what is wrong with it.
pub(super) const RULES: [&str; 1] = ["select c.namespace, 'claim ' || c.token, 'has a token that is still to be given'
     from claim c join namespace n on n.id = c.namespace where c.token > n.last_token"];

/// A `select` of the claims that may be on a path, and of the one of a token; by namespace, the folded path, namespace,
/// namespace, token, and the folded path.
pub(super) fn on_path() -> String {
    format!(
        "select {COLUMNS} from claim where namespace = $1 and folded = $2 and not is_glob union all
         select {COLUMNS} from claim where namespace = $3 and is_glob union all
         select {COLUMNS} from claim where namespace = $4 and token = $5 and not is_glob and folded <> $6"
    )
}

impl Tx<'_> {
    /// The store's time is between these two, whichever hub is asked.
    pub(crate) fn time_bounds(&self) -> (Timestamp, Timestamp) {
        let now = self.scope.now;
        (now.surely(), now.at.after(now.error))
    }

    /// All claims of the workspace, also those that are over, by token.
    pub(crate) async fn claims(&mut self) -> Result<Vec<Claim>, DbError> {
        let sql = format!("select {COLUMNS} from claim where namespace = $1 order by token");
        self.all(&sql, values![self.namespace()], from_row).await.doing("load claims")
    }

    /// The claim of a token, unless it is over.
    pub(crate) async fn claim(&mut self, token: ClaimToken) -> Result<Option<Claim>, DbError> {
        let sql = format!("select {COLUMNS} from claim where namespace = $1 and token = $2");
        let claim = self.first(&sql, values![self.namespace(), token.0], from_row).await.doing("load a claim")?;
        Ok(claim.filter(|claim| !claim.is_over(self.time_bounds())))
    }

    /// The claims of these tokens, but for those that are over.
    pub(crate) async fn claims_of(&mut self, tokens: Vec<ClaimToken>) -> Result<Vec<Claim>, DbError> {
        let sql = format!("select {COLUMNS} from claim where namespace = $1 and token {}", self.sql.any(2));
        let tokens: Vec<i64> = tokens.into_iter().map(|token| token.0).collect();
        let mut claims = self.all(&sql, values![self.namespace(), tokens], from_row).await.doing("load claims")?;
        let bounds = self.time_bounds();
        claims.retain(|claim| !claim.is_over(bounds));
        Ok(claims)
    }

    /// The last token that was given in the workspace.
    pub(crate) async fn last_token(&mut self) -> Result<ClaimToken, DbError> {
        let sql = "select last_token from namespace where id = $1";
        let read = |row: &Row<'_>| Ok(ClaimToken(row.next()?));
        let last = self.first(sql, values![self.namespace()], read).await.doing("read the last token")?;
        Ok(last.unwrap_or(ClaimToken(0)))
    }

    /// So many tokens that were never given before: the one before the first, and the number of the last event.
    pub(crate) async fn take_tokens(&mut self, count: usize) -> Result<(i64, i64), DbError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let sql = "update namespace set last_token = last_token + $1 where id = $2 returning last_token, last_event";
        let read = |row: &Row<'_>| Ok((row.next::<i64>()?, row.next::<i64>()?));
        let given = self.change(sql, values![count, self.namespace()], read).await.doing("give tokens")?;
        let (last, seen) = given.first().ok_or_else(|| super::failed("give tokens", "the namespace is missing"))?;
        Ok((last - count, *seen))
    }

    /// Add claims.
    pub(crate) async fn add_claims(&mut self, claims: &[Claim]) -> Result<(), DbError> {
        let sql = format!(
            "insert into claim (namespace, folded, is_glob, {COLUMNS})
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
        );
        let namespace = self.namespace();
        self.execute_each(&sql, claims.iter().map(|claim| values_of(namespace, claim))).await.doing("add claims")
    }

    /// Save whether a claim is held, and until when.
    pub(crate) async fn save_claim(&mut self, claim: &Claim) -> Result<(), DbError> {
        let sql = "update claim set is_held = $1, renewed = $2, until = $3 where namespace = $4 and token = $5";
        let Claim { token, is_held, renewed, until, .. } = claim;
        let values = values![*is_held, renewed.0, until.0, self.namespace(), token.0];
        self.execute(sql, values).await.doing("save a claim")
    }

    /// Delete claims.
    pub(crate) async fn delete_claims(&mut self, tokens: Vec<ClaimToken>) -> Result<(), DbError> {
        if tokens.is_empty() {
            return Ok(());
        }
        let sql = format!("delete from claim where namespace = $1 and token {}", self.sql.any(2));
        let tokens: Vec<i64> = tokens.into_iter().map(|token| token.0).collect();
        self.execute(&sql, values![self.namespace(), tokens]).await.doing("delete claims")
    }
}

impl Db {
    /// The claims of a workspace that are not over, held and waiting, after a token. At most `limit`, and never more than
    /// [`PAGE_MAX`].
    pub async fn claims(
        &self,
        permit: &Permit<Read>,
        after: Option<ClaimToken>,
        limit: usize,
    ) -> Result<Vec<Claim>, DbError> {
        let now = self.now();
        let (earliest, latest) = (now.surely(), now.at.after(now.error).after(CLOCKS_APART_MAX));
        let sql = format!(
            "select {COLUMNS} from claim where namespace = $1 and token > $2 and until > $3 and renewed <= $4
             order by token limit $5"
        );
        let after = after.map_or(0, |token| token.0);
        self.read_in(permit.namespace(), async move |db, namespace| {
            let values = values![namespace, after, earliest.0, latest.0, page(limit)];
            db.all(&sql, values, from_row).await.doing("list claims")
        })
        .await
    }

    /// The claims that may be on a path, and the one of a token, without those that are over; and the last token that was
    /// given.
    pub(crate) async fn claims_on(
        &self,
        permit: &Permit<Read>,
        path: &FilePath,
        token: Option<ClaimToken>,
    ) -> Result<(Vec<Claim>, ClaimToken), DbError> {
        let now = self.now();
        let (bounds, twin, token) =
            ((now.surely(), now.at.after(now.error)), path.twin(), token.map_or(0, |one| one.0));
        let found = self.read_in(permit.namespace(), async move |db, namespace| {
            let claims_sql = on_path();
            let claims = Select {
                sql: &claims_sql,
                values: values![namespace, &twin, namespace, namespace, token, &twin],
                read: from_row,
            };
            let last = Select {
                sql: "select last_token from namespace where id = $1",
                values: values![namespace],
                read: |row: &Row<'_>| Ok(ClaimToken(row.next()?)),
            };
            let (claims, last) = db.both(claims, last).await.doing("look for claims")?;
            Ok(Some((claims, last.into_iter().next().unwrap_or(ClaimToken(0)))))
        });
        let (mut claims, last) = found.await?.unwrap_or((Vec::new(), ClaimToken(0)));
        claims.retain(|claim| !claim.is_over(bounds));
        Ok((claims, last))
    }

    /// Claims that are held although they exclude each other: the later one, and the token of the earlier one. This
    /// must not be even of those that are over, because whoever is granted something deletes what is in its way.
    pub(super) async fn claims_that_overlap(&self, namespace: i64) -> Result<Vec<(ClaimToken, ClaimToken)>, DbError> {
        let sql = format!("select {COLUMNS} from claim where namespace = $1 and is_held order by token");
        let held = self.read(async move |db| {
            let limit = page(PAGE_MAX); // more cannot be there, unless something else is wrong
            let sql = format!("{sql} limit $2");
            db.all(&sql, values![namespace, limit], from_row).await.doing("check the claims")
        });
        let held = held.await?;
        let earlier = |(n, claim): (usize, &Claim)| {
            let other = held[..n].iter().find(|other| other.excludes(claim))?;
            Some((claim.token, other.token))
        };
        Ok(held.iter().enumerate().filter_map(earlier).collect())
    }
}

/// The columns of a new claim.
fn values_of(namespace: i64, claim: &Claim) -> [Value<'_>; 12] {
    let Claim { token, pattern, is_shared, is_held, by, asked, renewed, until } = claim;
    [
        namespace.into(),
        pattern.folded().into(),
        pattern.is_glob().into(),
        token.0.into(),
        pattern.as_str().into(),
        (*is_shared).into(),
        (*is_held).into(),
        (&*by.principal).into(),
        by.agent.as_deref().into(),
        asked.0.into(),
        renewed.0.into(),
        until.0.into(),
    ]
}

pub(super) fn from_row(row: &Row<'_>) -> Result<Claim, Cause> {
    let (token, pattern) = (ClaimToken(row.next()?), Pattern::new(row.next_text()?.unwrap_or_default())?);
    let (is_shared, is_held) = (row.next()?, row.next()?);
    let (principal, agent): (String, Option<String>) = (row.next()?, row.next()?);
    let by = Author { principal: principal.into(), agent: agent.map(Arc::from) };
    let (asked, renewed, until) = (Timestamp(row.next()?), Timestamp(row.next()?), Timestamp(row.next()?));
    Ok(Claim { token, pattern, is_shared, is_held, by, asked, renewed, until })
}
