//! `project_submit`: have a project done, as tasks with types.

use std::{collections::BTreeSet, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use skep_core::{
    policy::Write,
    task::{self, Details, NewTask, TaskId},
};
use skep_tools::{
    error::ToolError,
    project::{
        NAME_CHARS_MAX as PROJECT_CHARS_MAX, PRIORITIES, Project, ProjectTask, Requirements, TEXT_CHARS_MAX,
        are_requirements, is_stack,
    },
    shared::Shared,
    tool::{Annotations, BuiltIn},
    workspace::Context,
};

use super::{NAME_CHARS_MAX, QUEUE, Shown, WRITES_ONCE, failed, new_name, shown};

/// The label of a project's own task, by which projects are found.
const LABEL: &str = "project";
/// Characters of a project's id, so that those of its tasks are not too long.
const ID_CHARS_MAX: usize = 200;

/// See [`BuiltIn::DESCRIPTION`].
pub(crate) struct ProjectSubmit {
    pub(crate) shared: Shared,
}

#[derive(Deserialize, JsonSchema, garde::Validate)]
#[garde(allow_unvalidated)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    /// Its name.
    #[garde(length(chars, min = 1, max = PROJECT_CHARS_MAX))]
    name: String,
    /// What it is, for whoever works on it.
    #[serde(default)]
    #[garde(length(chars, max = TEXT_CHARS_MAX))]
    description: String,
    /// What it must be able to do: a text with commas, semicolons or lines between them, or a list.
    #[garde(custom(are_requirements))]
    requirements: Requirements,
    /// With what it is built: `frontend`, `backend`, `database`, `cache`, `devops` and others, each a text or a list of texts.
    #[serde(default, alias = "techStack")]
    #[garde(custom(is_stack))]
    tech_stack: Map<String, Value>,
    /// How urgent it is, which all of its tasks are then; `medium` if that is not said.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = PRIORITIES))]
    priority: task::Priority,
    /// Its id. Without one, it gets one. Submitting a project again under its id changes nothing.
    #[serde(alias = "project_id", alias = "projectId")]
    #[garde(length(chars, min = 1, max = ID_CHARS_MAX))]
    id: Option<String>,
    /// The queue that workers get its tasks from; `default` if none is given.
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    queue: Option<String>,
    /// Submit once, however often you try: the project gets an id that is made of it, if it has none.
    #[serde(alias = "idempotencyKey")]
    #[garde(length(chars, min = 1, max = 100))]
    idempotency_key: Option<String>,
    /// Which agent submits it.
    #[serde(alias = "agentId")]
    #[garde(length(chars, min = 1, max = NAME_CHARS_MAX))]
    agent_id: Option<String>,
}

/// The project.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Answer {
    /// Its id, which is that of its last task, the review: the project is completed when that is, blocked when something of it
    /// has failed for good, and cancelled with it.
    project_id: String,
    /// Its tasks, each after all that it depends on; all but the last are parts of the last.
    tasks: Vec<Shown>,
    /// Entries of the tech stack that no rule knows; the backend got them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<String>,
}

impl BuiltIn for ProjectSubmit {
    const NAME: &'static str = "project_submit";
    const DESCRIPTION: &'static str = "Submit a project: rules break its requirements down into tasks for manager, frontend, \
        backend, database, devops, integration and qa, which depend on each other. Workers get them with task_next, by their \
        types. The project's id is that of its last task.";
    const ANNOTATIONS: Annotations = WRITES_ONCE;
    const DEADLINE: Duration = Duration::from_secs(30);
    type Arguments = Arguments;
    type Answer = Answer;

    async fn call(&self, context: &Context, arguments: Arguments) -> Result<Answer, ToolError> {
        let Arguments { name, description, requirements, tech_stack, priority, id, queue, idempotency_key, agent_id } =
            arguments;
        let (app, permit) = self.shared.open::<Write>(context, None, agent_id.as_deref())?;
        let made = || match &idempotency_key {
            Some(key) => format!("{}:{key}", permit.actor().principal),
            None => format!("project_{}", new_name().to_lowercase()),
        };
        let project_id = id.unwrap_or_else(made);
        let breakdown = Project { name, description, requirements, tech_stack, priority }.break_down();
        let queue = queue.unwrap_or_else(|| QUEUE.to_owned());
        let last = breakdown.tasks.len() - 1; // there is a review
        let review = breakdown.tasks[last].id.clone();
        let id_of =
            |task: &str| TaskId(if task == review { project_id.clone() } else { format!("{project_id}:{task}") });
        let new = breakdown.tasks.into_iter().map(|task| {
            let is_review = task.id == review;
            let (id, depends_on) = (id_of(&task.id), task.depends_on.iter().map(|on| id_of(on)).collect());
            let ProjectTask { title, description, kind, priority, .. } = task;
            let details = Details {
                title: Some(title),
                description: Some(description),
                kind: Some(kind.name().to_owned()),
                parent: (!is_review).then(|| TaskId(project_id.clone())),
                labels: is_review.then(|| LABEL.to_owned()).into_iter().collect::<BTreeSet<_>>(),
                ..Details::default()
            };
            NewTask { priority, depends_on, details, ..NewTask::new(id, queue.clone(), Value::Null) }
        });
        let tasks = app.submit_all(&permit, new.collect()).await.map_err(failed)?;
        let tasks = shown(app, &permit.to_read(), &tasks).await?;
        let unknown = breakdown.unknown.into_iter().map(|unknown| unknown.entry).collect();
        Ok(Answer { project_id, tasks, unknown })
    }
}
