//! What a task says for people, and for whoever looks for tasks: nothing that decides when it runs, but for the
//! capabilities that its worker must have.

use std::collections::BTreeSet;

use super::TaskId;
use crate::limits::{
    Invalid, TASK_DESCRIPTION_BYTES_MAX, TASK_TAGS_MAX, TASK_TITLE_BYTES_MAX, check_count, check_name, check_text,
};

/// What is known of a task beside what decides its life. Most tasks have none, and then it takes no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// What it is about, in a line.
    pub title: Option<String>,
    /// What is to be done.
    pub description: Option<String>,
    /// What sort of work it is, such as `backend`.
    pub kind: Option<String>,
    /// The task that it is a part of. It is cancelled with that one.
    pub parent: Option<TaskId>,
    /// What a worker that pulls tasks must be able to do to get it.
    pub capabilities: BTreeSet<String>,
    /// Words by which it is found.
    pub labels: BTreeSet<String>,
}

impl Details {
    /// Whether there is anything to keep.
    pub fn is_empty(&self) -> bool {
        *self == Details::default()
    }

    /// Whether it can be kept.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let Details { title, description, kind, parent, capabilities, labels } = self;
        title.as_deref().map_or(Ok(()), |title| check_text("the title", title, TASK_TITLE_BYTES_MAX))?;
        let description = description.as_deref();
        description.map_or(Ok(()), |text| check_text("the description", text, TASK_DESCRIPTION_BYTES_MAX))?;
        kind.as_deref().map_or(Ok(()), |kind| check_name("type", kind))?;
        parent.as_ref().map_or(Ok(()), |parent| check_name("parent", &parent.0))?;
        check_count("capabilities", capabilities.len(), TASK_TAGS_MAX)?;
        capabilities.iter().try_for_each(|capability| check_name("capability", capability))?;
        check_count("labels", labels.len(), TASK_TAGS_MAX)?;
        labels.iter().try_for_each(|label| check_name("label", label))
    }

    /// How large it is.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.title, &self.description].into_iter().flatten();
        texts.chain(&self.capabilities).chain(&self.labels).map(String::len).sum()
    }
}
