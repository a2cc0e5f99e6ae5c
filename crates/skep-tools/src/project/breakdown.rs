//! The rules, in the order in which they make tasks.

use std::collections::{BTreeMap, BTreeSet};

use super::{Breakdown, Kind, Project, ProjectTask, Unknown};

/// Characters of an id that come from what the task is about.
const SLUG_CHARS_MAX: usize = 40;

/// The tasks that a project takes.
pub(super) fn of(project: &Project) -> Breakdown {
    let mut made = Made { project, tasks: Vec::new(), ids: BTreeMap::new() };
    let (stack, unknown) = stack(project);
    let plan = made.plan();
    let model = made.model(&stack, &plan);
    let setups: BTreeMap<Kind, String> = [Kind::Backend, Kind::Frontend, Kind::Integration, Kind::Qa]
        .into_iter()
        .filter_map(|kind| Some((kind, made.setup(kind, stack.get(&kind)?, &plan))))
        .collect();
    let environment = made.environment(&stack, &plan, &setups);
    for requirement in project.requirements.each() {
        let built = made.requirement(requirement, &stack, &plan, model.as_deref(), &setups);
        made.test(requirement, built, &setups);
    }
    let whole = made.whole(environment.as_deref());
    let deployed = environment.map(|environment| made.deploy(&environment, &whole));
    made.review(deployed.unwrap_or(whole));
    Breakdown { name: project.name.clone(), description: project.description.clone(), tasks: made.tasks, unknown }
}

/// What each kind works with.
type Stack<'a> = BTreeMap<Kind, Vec<&'a str>>;

fn stack(project: &Project) -> (Stack<'_>, Vec<Unknown>) {
    let (mut stack, mut unknown) = (Stack::new(), Vec::new());
    for (name, technology) in project.technologies() {
        let kind = Kind::of_entry(name, technology).unwrap_or_else(|| {
            unknown.push(Unknown { entry: format!("{name}: {technology}"), kind: Kind::Backend });
            Kind::Backend
        });
        stack.entry(kind).or_default().push(technology);
    }
    (stack, unknown)
}

struct Made<'a> {
    project: &'a Project,
    tasks: Vec<ProjectTask>,
    /// How many tasks have an id that begins so.
    ids: BTreeMap<String, usize>,
}

impl Made<'_> {
    /// Add a task, and give its id.
    fn add(
        &mut self,
        id: &str,
        kind: Kind,
        title: String,
        description: String,
        after: Vec<String>,
        because: &str,
    ) -> String {
        let count = self.ids.entry(id.to_owned()).or_default();
        *count += 1;
        let id = if *count == 1 { id.to_owned() } else { format!("{id}-{count}") };
        self.tasks.push(ProjectTask {
            id: id.clone(),
            title,
            description,
            kind,
            priority: self.project.priority,
            depends_on: after,
            because: because.to_owned(),
        });
        id
    }

    fn plan(&mut self) -> String {
        let Project { name, description, requirements, .. } = self.project;
        let list: String = requirements.each().iter().map(|one| format!("\n- {one}")).collect();
        let about = if description.is_empty() { String::new() } else { format!("{description}\n\n") };
        let text =
            format!("{about}Say for each requirement when it is met, what it leaves open, and what is risky:{list}");
        self.add("plan", Kind::Manager, format!("Plan {name}"), text, Vec::new(), "every project begins with a plan")
    }

    fn model(&mut self, stack: &Stack<'_>, plan: &str) -> Option<String> {
        let with = listed(stack.get(&Kind::Database)?);
        let text = format!(
            "Set up {with}, and design the data that the requirements need: tables or collections, keys, migrations."
        );
        let title = format!("Data model on {with}");
        let after = vec![plan.to_owned()];
        Some(self.add("data-model", Kind::Database, title, text, after, "the tech stack has something that keeps data"))
    }

    fn setup(&mut self, kind: Kind, with: &[&str], plan: &str) -> String {
        let (with, what) = (
            listed(with),
            match kind {
                Kind::Backend => "the service: its structure, configuration, errors, and one endpoint that works",
                Kind::Frontend => "what people see: its structure, navigation, style, and one page that works",
                Kind::Integration => "the connections to services of others: credentials, timeouts, retries",
                _ => "the tests: how they run on every change, and what they report",
            },
        );
        let (title, text) = (format!("Set up the {kind} with {with}"), format!("With {with}, set up {what}."));
        let because = format!("the tech stack has something for {kind}");
        self.add(&format!("setup-{kind}"), kind, title, text, vec![plan.to_owned()], &because)
    }

    fn environment(&mut self, stack: &Stack<'_>, plan: &str, setups: &BTreeMap<Kind, String>) -> Option<String> {
        let with = listed(stack.get(&Kind::Devops)?);
        let built = [Kind::Backend, Kind::Frontend].iter().filter_map(|kind| setups.get(kind).cloned());
        let after: Vec<String> = built.collect();
        let after = if after.is_empty() { vec![plan.to_owned()] } else { after };
        let text = format!("With {with}, build and test every change, and make an environment to try it in.");
        let title = format!("Builds and environments with {with}");
        Some(self.add("environments", Kind::Devops, title, text, after, "the tech stack has something for devops"))
    }

    /// The tasks that build a requirement; gives the last ones.
    fn requirement(
        &mut self,
        requirement: &str,
        stack: &Stack<'_>,
        plan: &str,
        model: Option<&str>,
        setups: &BTreeMap<Kind, String>,
    ) -> Vec<String> {
        let (slug, named) = (slug(requirement), Kind::named_by(requirement));
        let after = |kind: Kind, more: Option<String>| {
            let of_kind = setups.get(&kind).cloned();
            let data = model.filter(|_| kind == Kind::Backend || kind == Kind::Database).map(str::to_owned);
            let all: Vec<String> = of_kind.into_iter().chain(data).chain(more).collect();
            if all.is_empty() { vec![plan.to_owned()] } else { all }
        };
        if !named.is_empty() {
            let build = |kind: &Kind| {
                let title = format!("{requirement} ({kind})");
                let because = format!("its words are those of work for {kind}");
                self.add(
                    &format!("{slug}-{kind}"),
                    *kind,
                    title,
                    task_text(*kind, requirement),
                    after(*kind, None),
                    &because,
                )
            };
            return named.iter().map(build).collect();
        }
        let has = |kind| stack.contains_key(&kind);
        let mut last = Vec::new();
        let mut backend = None;
        if has(Kind::Backend) || !has(Kind::Frontend) {
            let because = if has(Kind::Backend) {
                "each requirement is built in the backend"
            } else {
                "somebody has to build it"
            };
            let title = format!("{requirement} (backend)");
            let text = task_text(Kind::Backend, requirement);
            let id =
                self.add(&format!("{slug}-backend"), Kind::Backend, title, text, after(Kind::Backend, None), because);
            backend = Some(id.clone());
            last.push(id);
        }
        if let Some(word) = Kind::outside_service(requirement) {
            let because = format!("{word:?} takes a service of others");
            let title = format!("{requirement} (integration)");
            let text = task_text(Kind::Integration, requirement);
            let after = after(Kind::Integration, backend.clone());
            last = vec![self.add(&format!("{slug}-integration"), Kind::Integration, title, text, after, &because)];
        }
        if has(Kind::Frontend) {
            let title = format!("{requirement} (frontend)");
            let (text, after) = (task_text(Kind::Frontend, requirement), after(Kind::Frontend, backend));
            let because = "each requirement is seen in the frontend";
            last.push(self.add(&format!("{slug}-frontend"), Kind::Frontend, title, text, after, because));
        }
        last
    }

    fn test(&mut self, requirement: &str, built: Vec<String>, setups: &BTreeMap<Kind, String>) {
        let after = built.into_iter().chain(setups.get(&Kind::Qa).cloned()).collect();
        let text = format!("Test that this is met, also with wrong input and when something fails: {requirement}");
        let title = format!("{requirement} (tests)");
        self.add(&format!("{}-tests", slug(requirement)), Kind::Qa, title, text, after, "each requirement is tested");
    }

    /// The test after everything that nothing else comes after, but for the environment.
    fn whole(&mut self, environment: Option<&str>) -> String {
        let needed: BTreeSet<&String> = self.tasks.iter().flat_map(|task| &task.depends_on).collect();
        let is_last = |id: &&String| !needed.contains(*id) && Some(id.as_str()) != environment;
        let after = self.tasks.iter().map(|task| &task.id).filter(is_last).cloned().collect();
        let text = "Test all requirements together, as somebody who uses it would, and under load.".to_owned();
        let title = format!("Test {} as a whole", self.project.name);
        self.add("tests", Kind::Qa, title, text, after, "what was tested alone is tested together")
    }

    fn deploy(&mut self, environment: &str, whole: &str) -> String {
        let text = "Deploy what was tested, watch it, and say how to take it back.".to_owned();
        let (title, after) = (format!("Deploy {}", self.project.name), vec![environment.to_owned(), whole.to_owned()]);
        self.add("deploy", Kind::Devops, title, text, after, "the tech stack has something for devops")
    }

    fn review(&mut self, last: String) {
        let text =
            "Compare what was built with the plan, requirement by requirement, and report what is left.".to_owned();
        let title = format!("Review {}", self.project.name);
        self.add("review", Kind::Manager, title, text, vec![last], "every project ends with a review");
    }
}

/// What a kind of agent does for a requirement.
fn task_text(kind: Kind, requirement: &str) -> String {
    let what = match kind {
        Kind::Manager => "Decide",
        Kind::Frontend => "Build the pages and parts with which people use this",
        Kind::Backend => "Build the operations, the rules and the API of this",
        Kind::Database => "Change the data and how it is kept for this",
        Kind::Devops => "Build, run or watch what this takes",
        Kind::Integration => "Connect the services of others that this takes",
        Kind::Qa => "Test this",
    };
    format!("{what}: {requirement}")
}

fn listed(all: &[&str]) -> String {
    match all {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Letters and digits of a text in lower case, with `-` between words.
fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = String::new();
    for word in words {
        if slug.len() + word.len() >= SLUG_CHARS_MAX && !slug.is_empty() {
            break;
        }
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.extend(word.chars().take(SLUG_CHARS_MAX).map(|c| c.to_ascii_lowercase()));
    }
    if slug.is_empty() { "requirement".to_owned() } else { slug }
}
