//! The kinds of agents, what each can do, and the words by which the rules tell whose work something is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Plans, coordinates, reports.
    Manager,
    /// Builds what people see.
    Frontend,
    /// Builds what answers.
    Backend,
    /// Builds what keeps the data.
    Database,
    /// Builds, deploys and watches.
    Devops,
    /// Connects services of others.
    Integration,
    /// Tests.
    Qa,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::Manager, Kind::Frontend, Kind::Backend, Kind::Database, Kind::Devops, Kind::Integration, Kind::Qa];

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Manager => "manager",
            Kind::Frontend => "frontend",
            Kind::Backend => "backend",
            Kind::Database => "database",
            Kind::Devops => "devops",
            Kind::Integration => "integration",
            Kind::Qa => "qa",
        }
    }

    /// What its agents can do.
    pub fn capabilities(self) -> &'static [&'static str] {
        match self {
            Kind::Manager => &["planning", "coordination", "reporting", "risk assessment"],
            Kind::Frontend => &["react", "vue", "angular", "typescript", "css", "responsive design"],
            Kind::Backend => &["python", "go", "node.js", "api design", "microservices"],
            Kind::Database => &["postgresql", "mysql", "mongodb", "redis", "optimization"],
            Kind::Devops => &["aws", "docker", "kubernetes", "jenkins", "terraform", "monitoring"],
            Kind::Integration => &["slack", "git", "youtrack", "api integrations", "webhooks"],
            Kind::Qa => &["testing", "automation", "selenium", "pytest", "quality assurance"],
        }
    }

    /// The kind that an entry of a tech stack belongs to, by its name, or else by the technology.
    pub(super) fn of_entry(name: &str, technology: &str) -> Option<Kind> {
        by_words(&PARTS, name).or_else(|| by_words(&TECHNOLOGIES, technology))
    }

    /// The kinds whose work a requirement is alone, because it says so; none if it is work for all who build.
    pub(super) fn named_by(requirement: &str) -> Vec<Kind> {
        let words = words(requirement);
        WORK.iter().filter(|(_, known)| known.iter().any(|known| has(&words, known))).map(|(kind, _)| *kind).collect()
    }

    /// The word of a requirement by which it takes a service of others, if one does.
    pub(super) fn outside_service(requirement: &str) -> Option<&'static str> {
        let words = words(requirement);
        SERVICES.into_iter().find(|known| has(&words, known))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Words for kinds. Several words between which there are spaces stand one after the other.
type Words = [(Kind, &'static [&'static str])];

/// What the entries of a tech stack are called.
const PARTS: [(Kind, &[&str]); 6] = [
    (Kind::Frontend, &["frontend", "front end", "ui", "web", "client", "mobile", "app", "styling", "css", "design"]),
    (Kind::Database, &["database", "databases", "db", "storage", "cache", "caching", "search", "warehouse", "data"]),
    (
        Kind::Devops,
        &[
            "devops",
            "infrastructure",
            "infra",
            "cloud",
            "hosting",
            "deployment",
            "deploy",
            "ci",
            "cd",
            "container",
            "containers",
            "orchestration",
            "monitoring",
            "observability",
            "logging",
            "cdn",
            "platform",
        ],
    ),
    (
        Kind::Integration,
        &[
            "integration",
            "integrations",
            "payments",
            "payment",
            "notifications",
            "email",
            "chat",
            "vcs",
            "version control",
            "issue tracker",
            "messaging",
            "sms",
            "webhooks",
        ],
    ),
    (Kind::Qa, &["testing", "tests", "test", "qa", "quality", "e2e"]),
    (Kind::Backend, &["backend", "back end", "api", "server", "language", "framework", "queue", "auth", "services"]),
];

/// Technologies that say themselves whose they are.
const TECHNOLOGIES: [(Kind, &[&str]); 6] = [
    (
        Kind::Frontend,
        &[
            "react",
            "vue",
            "angular",
            "svelte",
            "sveltekit",
            "next js",
            "nuxt",
            "typescript",
            "css",
            "tailwind",
            "html",
            "htmx",
            "flutter",
            "swift",
            "swiftui",
            "kotlin",
            "react native",
            "solid",
        ],
    ),
    (
        Kind::Database,
        &[
            "postgresql",
            "postgres",
            "mysql",
            "mariadb",
            "sqlite",
            "mongodb",
            "redis",
            "valkey",
            "cassandra",
            "dynamodb",
            "elasticsearch",
            "opensearch",
            "clickhouse",
            "neo4j",
            "s3",
            "minio",
        ],
    ),
    (
        Kind::Devops,
        &[
            "aws",
            "gcp",
            "azure",
            "docker",
            "kubernetes",
            "k8s",
            "terraform",
            "ansible",
            "jenkins",
            "github actions",
            "gitlab ci",
            "prometheus",
            "grafana",
            "nginx",
            "helm",
            "cloudflare",
        ],
    ),
    (
        Kind::Integration,
        &["slack", "git", "github", "gitlab", "youtrack", "jira", "stripe", "paypal", "twilio", "sendgrid"],
    ),
    (Kind::Qa, &["selenium", "pytest", "playwright", "cypress", "jest", "junit", "k6", "locust"]),
    (
        Kind::Backend,
        &[
            "python",
            "fastapi",
            "django",
            "flask",
            "go",
            "golang",
            "rust",
            "axum",
            "node",
            "node js",
            "express",
            "nestjs",
            "java",
            "spring",
            "spring boot",
            "c#",
            "net",
            "php",
            "laravel",
            "ruby",
            "rails",
            "elixir",
            "phoenix",
            "graphql",
            "grpc",
            "kafka",
            "rabbitmq",
            "celery",
        ],
    ),
];

/// Words of requirements that are work for one kind.
const WORK: [(Kind, &[&str]); 5] = [
    (Kind::Frontend, &["responsive", "dark mode", "accessibility", "landing page", "layout", "styling", "ui"]),
    (Kind::Database, &["migration", "migrations", "schema", "backup", "backups", "replication", "indexing"]),
    (
        Kind::Devops,
        &[
            "deployment",
            "deploy",
            "ci",
            "ci cd",
            "pipeline",
            "monitoring",
            "autoscaling",
            "docker",
            "kubernetes",
            "infrastructure",
            "high availability",
            "tls",
            "https",
        ],
    ),
    (Kind::Qa, &["load test", "load tests", "load testing", "test coverage", "performance tests", "penetration test"]),
    (Kind::Integration, &["webhook", "webhooks"]),
];

/// Words of requirements that take a service of others.
const SERVICES: [&str; 27] = [
    "payment",
    "payments",
    "checkout",
    "billing",
    "stripe",
    "paypal",
    "email",
    "emails",
    "sms",
    "push notifications",
    "notifications",
    "oauth",
    "oauth2",
    "sso",
    "single sign on",
    "social login",
    "slack",
    "github",
    "gitlab",
    "jira",
    "youtrack",
    "calendar",
    "maps",
    "geocoding",
    "shipping",
    "webhook",
    "third party",
];

fn by_words(all: &Words, text: &str) -> Option<Kind> {
    let words = words(text);
    // What stands first in the text counts, so that "Python + PostgreSQL driver" is a backend.
    let place = |known: &[&str]| known.iter().filter_map(|known| place_of(&words, known)).min();
    let found = all.iter().filter_map(|(kind, known)| Some((place(known)?, *kind)));
    found.min_by_key(|(place, _)| *place).map(|(_, kind)| kind)
}

/// The words of a text in lower case: runs of letters, digits, `#` and `+` within them.
fn words(text: &str) -> Vec<String> {
    let is_in_word = |c: char| c.is_alphanumeric() || c == '#';
    text.split(|c| !is_in_word(c)).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

fn has(words: &[String], known: &str) -> bool {
    place_of(words, known).is_some()
}

/// Where some words stand one after the other.
fn place_of(words: &[String], known: &str) -> Option<usize> {
    let known: Vec<&str> = known.split(' ').collect();
    words.windows(known.len()).position(|some| some.iter().eq(known.iter()))
}
