//! What tasks say beside what decides their lives, and which are parts of which.

use std::collections::BTreeMap;

use crate::{
    Json,
    db::{
        Db, DbError, Doing, Tx,
        sql::{Cause, Row, Sql, Value, values},
    },
    memory::words_of,
    policy::{Permit, Read},
    task::{Details, NewTask, TaskId},
};

/// Kinds of rows of `task_tag`.
const CAPABILITY: &str = "capability";
const LABEL: &str = "label";

impl Tx<'_> {
    /// Keep what new tasks say.
    pub(crate) async fn add_details<'a>(&mut self, tasks: impl Iterator<Item = &'a NewTask>) -> Result<(), DbError> {
        let (namespace, mut rows, mut tags, mut words) = (self.namespace(), Vec::new(), Vec::new(), Vec::new());
        for task in tasks.filter(|task| !task.details.is_empty()) {
            let Details { title, description, kind, parent, capabilities, labels } = &task.details;
            let parent = parent.as_ref().map(|parent| &parent.0);
            let id = Value::from(&task.id.0);
            rows.push([
                namespace.into(),
                id.clone(),
                title.as_ref().into(),
                description.as_ref().into(),
                kind.as_ref().into(),
                parent.into(),
            ]);
            let text = Json::of(&description.as_deref().unwrap_or_default());
            let found = words_of(title.as_deref().unwrap_or_default(), &text);
            words.extend(found.into_keys().map(|word| [namespace.into(), id.clone(), word.into()]));
            let kinds = [(CAPABILITY, capabilities), (LABEL, labels)];
            let each = kinds.into_iter().flat_map(|(kind, tags)| tags.iter().map(move |tag| (kind, tag)));
            tags.extend(each.map(|(kind, tag)| [namespace.into(), id.clone(), kind.into(), tag.into()]));
        }
        if !rows.is_empty() {
            let sql = "insert into task_detail (namespace, id, title, description, kind, parent)
                 values ($1, $2, $3, $4, $5, $6)";
            self.execute_each(sql, rows).await.doing("add what tasks say")?;
        }
        if !tags.is_empty() {
            let sql = "insert into task_tag (namespace, id, kind, tag) values ($1, $2, $3, $4)";
            self.execute_each(sql, tags).await.doing("add what tasks say")?;
        }
        if !words.is_empty() {
            let sql = "insert into task_word (namespace, id, word) values ($1, $2, $3)";
            self.execute_each(sql, words).await.doing("add what tasks say")?;
        }
        Ok(())
    }

    /// What these tasks say, as far as they say anything.
    pub(crate) async fn details_of(&mut self, ids: &[TaskId]) -> Result<BTreeMap<TaskId, Details>, DbError> {
        let namespace = self.namespace();
        details_of(&mut self.sql, namespace, ids).await.doing("read what tasks say")
    }

    /// The tasks that are parts of one of these, at most `limit`.
    pub(crate) async fn parts_of(&mut self, ids: &[TaskId], limit: usize) -> Result<Vec<TaskId>, DbError> {
        let sql = format!(
            "select id from task_detail where namespace = $1 and parent {} order by id limit $3",
            self.sql.any(2)
        );
        let values = values![self.namespace(), names(ids), i64::try_from(limit).unwrap_or(i64::MAX)];
        self.all(&sql, values, |row| Ok(TaskId(row.next()?))).await.doing("look for the parts of tasks")
    }
}

impl Db {
    /// What these tasks say, as far as they say anything.
    pub async fn task_details(
        &self,
        permit: &Permit<Read>,
        ids: Vec<TaskId>,
    ) -> Result<BTreeMap<TaskId, Details>, DbError> {
        self.read_in(permit.namespace(), async move |db, namespace| {
            details_of(db, namespace, &ids).await.doing("read what tasks say")
        })
        .await
    }
}

async fn details_of(sql: &mut Sql<'_>, namespace: i64, ids: &[TaskId]) -> Result<BTreeMap<TaskId, Details>, Cause> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let any = sql.any(2);
    let select =
        format!("select id, title, description, kind, parent from task_detail where namespace = $1 and id {any}");
    let read = |row: &Row<'_>| {
        let (id, title, description, kind) = (TaskId(row.next()?), row.next()?, row.next()?, row.next()?);
        let parent = row.next::<Option<String>>()?.map(TaskId);
        Ok((id, Details { title, description, kind, parent, ..Details::default() }))
    };
    let found = sql.all(&select, values![namespace, names(ids)], read).await?;
    let mut details: BTreeMap<TaskId, Details> = found.into_iter().collect();
    if details.is_empty() {
        return Ok(details);
    }
    let select = format!("select id, kind, tag from task_tag where namespace = $1 and id {any}");
    let read = |row: &Row<'_>| Ok((TaskId(row.next()?), row.next::<String>()?, row.next::<String>()?));
    for (id, kind, tag) in sql.all(&select, values![namespace, names(ids)], read).await? {
        let Some(of_task) = details.get_mut(&id) else { continue };
        let tags = if kind == CAPABILITY { &mut of_task.capabilities } else { &mut of_task.labels };
        tags.insert(tag);
    }
    Ok(details)
}

pub(super) fn names(ids: &[TaskId]) -> Vec<String> {
    ids.iter().map(|id| id.0.clone()).collect()
}
