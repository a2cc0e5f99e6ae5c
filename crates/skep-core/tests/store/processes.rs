//! What several processes with the same SQLite file can rely on.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write as _},
    process::{Child, Command as Process, Stdio},
};

use tokio::{task::JoinSet, time::timeout};

use super::*;

const PROCESSES: usize = 2;
/// Tasks that each process brings, and workers that it has.
const TASKS: usize = 60;
const WORKERS: usize = 4;
/// How long to wait before looking again for what the other process has done.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_file_lose_nothing_and_start_nothing_twice() {
    let directory = in_memory();
    let address = sqlite(&directory);
    // They open it together, too, when it does not exist yet.
    let mut children: Vec<Child> = (0..PROCESSES).map(|n| start(&address, n)).collect();
    let mut lines: Vec<_> = children
        .iter_mut()
        .map(|child| BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap))
        .collect();
    for lines in &mut lines {
        assert!(lines.any(|line| line == "ready"), "it did not come to its work");
    }
    for child in &mut children {
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut started_by = Vec::new();
    for lines in &mut lines {
        let said: Vec<String> = lines.filter_map(|line| Some(line.split_once("did ")?.1.to_owned())).collect();
        started_by.push(said.iter().filter(|said| said.starts_with("start")).count());
        said.into_iter().for_each(|said| *times.entry(said).or_default() += 1);
    }
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    for process in 0..PROCESSES {
        for n in 0..TASKS {
            for did in ["submit", "start", "finish"] {
                assert_eq!(times.get(&format!("{did} {process}-{n}")), Some(&1), "{did} {process}-{n}");
            }
        }
    }
    assert!(started_by.iter().all(|count| *count > 0), "both had work: {started_by:?}");
    let app = open(&address, Limits::default()).await;
    assert_eq!(log(&app).await.len(), PROCESSES * TASKS * 3);
    assert_eq!(sound(&address).await.events_missing, 0);
}

fn start(address: &str, process: usize) -> Child {
    Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::a_child_that_shares_a_file", "--ignored", "--nocapture"])
        .envs([("SKEP_TEST_ADDRESS", address), ("SKEP_TEST_PROCESS", &process.to_string())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of two_processes_with_one_file_lose_nothing_and_start_nothing_twice"]
async fn a_child_that_shares_a_file() {
    let [address, process] = ["SKEP_TEST_ADDRESS", "SKEP_TEST_PROCESS"].map(|name| std::env::var(name).unwrap());
    let app = open(&address, Limits::default()).await;
    println!("\nready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let mut working = JoinSet::new();
    for worker in 0..WORKERS {
        let (app, process) = (app.clone(), process.clone());
        working.spawn(async move {
            // Each third task needs the one before it, which the other process may finish.
            for n in (0..TASKS).filter(|n| n % WORKERS == worker) {
                let name = format!("{process}-{n}");
                let task = if n % 12 == 8 { needs(&name, &[&format!("{process}-{}", n - 4)]) } else { new(&name) };
                app.submit(&permit(), task).await.unwrap();
                println!("\ndid submit {name}");
                work(&app).await;
            }
            let mut watch = app.db.watch(&permit().to_read());
            while count(&app, "task.completed").await < PROCESSES * TASKS {
                if !work(&app).await {
                    let _ = timeout(LOOK_AGAIN, watch.changed()).await; // the other process may be heard later
                }
            }
        });
    }
    working.join_all().await;
}

/// Whether there was something to do.
async fn work(app: &Hub) -> bool {
    let Some(task) = claim(app, NOW).await else { return false };
    assert_eq!(task.attempt, 1);
    println!("\ndid start {}", task.id.0);
    finish(app, &task).await.unwrap();
    println!("\ndid finish {}", task.id.0);
    true
}
