//! The tasks of a run as a graph: whether it can be one, and what of it is done again in a retry.

use std::collections::{HashMap, HashSet};

use super::{NewTask, State, Task, TaskId};
use crate::limits::{Invalid, RUN_DEPENDENCIES_MAX, RUN_TASKS_MAX, check_count};

/// The tasks of a run that ended without success and can be done again, each with how many others it waits for then: all
/// but failures that were allowed; or one task, and what was blocked or cancelled because of it. A task that needs one
/// which stays without success stays so, too.
pub(crate) fn to_reopen(tasks: &[Task], only: Option<&TaskId>) -> Vec<(TaskId, u32)> {
    let never_started = |task: &Task| matches!(task.state, State::Blocked(_) | State::Cancelled);
    let by_id: HashMap<&TaskId, &Task> = tasks.iter().map(|task| (&task.id, task)).collect();
    let mut chosen: HashSet<&TaskId> = tasks
        .iter()
        .filter(|task| match only {
            None => never_started(task) || !task.allow_failure && matches!(task.state, State::Failed(_)),
            Some(only) => task.id == *only && (never_started(task) || matches!(task.state, State::Failed(_))),
        })
        .map(|task| &task.id)
        .collect();
    loop {
        let count = chosen.len();
        let needs_chosen = |task: &&Task| task.depends_on.iter().any(|need| chosen.contains(need));
        let more: Vec<&TaskId> =
            tasks.iter().filter(|task| never_started(task)).filter(needs_chosen).map(|task| &task.id).collect();
        chosen.extend(more);
        if chosen.len() == count {
            break;
        }
    }
    loop {
        let stays = |need: &TaskId| {
            let in_vain = |task: &&Task| task.state.is_over() && !matches!(task.state, State::Completed(_));
            !chosen.contains(need) && by_id.get(need).is_some_and(|task| in_vain(task) && !task.allow_failure)
        };
        let hopeless = |id: &&TaskId| by_id.get(*id).is_some_and(|task| task.depends_on.iter().any(stays));
        let hopeless: Vec<&TaskId> = chosen.iter().copied().filter(hopeless).collect();
        if hopeless.is_empty() {
            break;
        }
        for id in hopeless {
            chosen.remove(id);
        }
    }
    let waits_for =
        |need: &&TaskId| by_id.get(*need).is_some_and(|task| !task.state.is_over()) || chosen.contains(*need);
    let reopened = tasks.iter().filter(|task| chosen.contains(&task.id));
    let with_count = |task: &Task| {
        let count = task.depends_on.iter().filter(waits_for).count();
        (task.id.clone(), u32::try_from(count).unwrap_or(u32::MAX))
    };
    reopened.map(with_count).collect()
}

/// Whether these tasks can be a run: their names differ, their dependencies are among them, and there is no cycle.
pub(crate) fn check_graph(tasks: &[NewTask]) -> Result<(), Invalid> {
    check_count("tasks in a run", tasks.len(), RUN_TASKS_MAX)?;
    let edges = tasks.iter().map(|task| task.depends_on.len()).sum();
    check_count("dependencies in a run", edges, RUN_DEPENDENCIES_MAX)?;
    let index = check_each(tasks)?;
    let mut needs = Vec::with_capacity(tasks.len());
    for task in tasks {
        let unknown = |on: &TaskId| Invalid::UnknownDependency { task: task.id.clone(), on: on.clone() };
        let found: Result<Vec<usize>, _> =
            task.depends_on.iter().map(|on| index.get(on).copied().ok_or_else(|| unknown(on))).collect();
        needs.push(found?);
    }
    sorted(tasks, &needs).map(drop)
}

/// The places of these tasks in such an order that each comes after those of them that it depends on. What else they depend
/// on is not looked at.
pub(crate) fn in_order(tasks: &[NewTask]) -> Result<Vec<usize>, Invalid> {
    let edges = tasks.iter().map(|task| task.depends_on.len()).sum();
    check_count("dependencies", edges, RUN_DEPENDENCIES_MAX)?;
    let index = check_each(tasks)?;
    let needs = |task: &NewTask| task.depends_on.iter().filter_map(|on| index.get(on).copied()).collect();
    sorted(tasks, &tasks.iter().map(needs).collect::<Vec<_>>())
}

/// Where each task is by its name, which no two may have.
fn check_each(tasks: &[NewTask]) -> Result<HashMap<&TaskId, usize>, Invalid> {
    let mut index = HashMap::with_capacity(tasks.len());
    for (n, task) in tasks.iter().enumerate() {
        task.check()?;
        if index.insert(&task.id, n).is_some() {
            return Err(Invalid::Duplicate(task.id.clone()));
        }
    }
    Ok(index)
}

fn sorted(tasks: &[NewTask], needs: &[Vec<usize>]) -> Result<Vec<usize>, Invalid> {
    order(needs).map_err(|cycle| Invalid::Cycle(cycle.into_iter().map(|n| tasks[n].id.clone()).collect()))
}

/// Each after those that it needs; or a cycle, in which each needs the next. Without recursion, because a chain may be
/// longer than the stack is deep.
fn order(needs: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let (mut done, mut order) = (vec![false; needs.len()], Vec::with_capacity(needs.len()));
    for start in 0..needs.len() {
        if done[start] {
            continue;
        }
        let (mut path, mut on_path) = (vec![(start, 0)], HashSet::from([start]));
        while let Some((task, next)) = path.last_mut() {
            let (task, need) = (*task, needs[*task].get(*next).copied());
            *next += 1;
            match need {
                Some(need) if on_path.contains(&need) => {
                    let members = path.iter().map(|(task, _)| *task);
                    return Err(members.skip_while(|task| *task != need).collect());
                }
                Some(need) if !done[need] => {
                    path.push((need, 0));
                    on_path.insert(need);
                }
                Some(_) => {}
                None => {
                    done[task] = true;
                    order.push(task);
                    on_path.remove(&task);
                    path.pop();
                }
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Json, Timestamp};

    /// Tasks of one run: name, what it needs, its state, and whether its failure is allowed.
    fn ended(tasks: &[(&str, &[&str], State, bool)]) -> Vec<Task> {
        let id = |name: &&str| TaskId((*name).to_owned());
        let task = |(name, needs, state, allow_failure): &(&str, &[&str], State, bool)| {
            let depends_on = needs.iter().map(id).collect();
            let new =
                NewTask { depends_on, allow_failure: *allow_failure, ..NewTask::new(id(name), "q", Json::null()) };
            Task { state: state.clone(), ..Task::new(new, 0, 0, Timestamp(0)) }
        };
        tasks.iter().map(task).collect()
    }

    fn reopened(tasks: &[Task], only: Option<&str>) -> Vec<(String, u32)> {
        let only = only.map(|name| TaskId(name.to_owned()));
        to_reopen(tasks, only.as_ref()).into_iter().map(|(id, waits)| (id.0, waits)).collect()
    }

    #[test]
    fn failed_tasks_and_what_they_held_up_are_done_again_and_nothing_else() {
        let (failed, done) = (State::Failed("x".into()), State::Completed(Json::null()));
        let blocked = State::Blocked(TaskId("a".into()));
        let tasks = ended(&[
            ("last", &["b", "d"], blocked.clone(), false),
            ("a", &[], failed.clone(), false),
            ("b", &["a", "d"], blocked, false),
            ("c", &[], failed, true),
            ("d", &["c"], done, false),
            ("e", &[], State::Cancelled, false),
        ]);
        let all = [("last", 1), ("a", 0), ("b", 1), ("e", 0)].map(|(name, waits)| (name.to_owned(), waits));
        assert_eq!(reopened(&tasks, None), all);
        assert_eq!(reopened(&tasks, Some("a")), &all[..3]);
        assert_eq!(reopened(&tasks, Some("c")), [("c".to_owned(), 0)], "named, an allowed failure is done again, too");
        assert_eq!(reopened(&tasks, Some("d")), [], "it was completed");
        assert_eq!(reopened(&tasks, Some("b")), [], "it needs a, which stays as it is");
    }

    #[test]
    fn a_task_that_needs_another_failure_stays_blocked() {
        let failed = State::Failed("x".into());
        let tasks = ended(&[
            ("a", &[], failed.clone(), false),
            ("b", &[], failed, false),
            ("both", &["a", "b"], State::Blocked(TaskId("a".into())), false),
            ("after", &["both"], State::Blocked(TaskId("a".into())), false),
        ]);
        assert_eq!(reopened(&tasks, Some("a")), [("a".to_owned(), 0)]);
        assert_eq!(reopened(&tasks, None).len(), 4);
    }

    fn chain(names: &[(&str, &[&str])]) -> Vec<NewTask> {
        let id = |name: &&str| TaskId((*name).to_owned());
        let task = |(name, needs): &(&str, &[&str])| NewTask {
            depends_on: needs.iter().map(id).collect(),
            ..NewTask::new(id(name), "q", Json::null())
        };
        names.iter().map(task).collect()
    }

    #[test]
    fn a_graph_with_a_circle_is_refused_with_the_circle() {
        let tasks = chain(&[("a", &[]), ("b", &["a", "d"]), ("c", &["b"]), ("d", &["c"])]);
        let Err(refused) = check_graph(&tasks) else { panic!("taken") };
        assert_eq!(
            refused.to_string(),
            "these tasks wait for each other: b → d → c → b; remove one of the dependencies"
        );
        assert!(matches!(check_graph(&chain(&[("a", &["a"])])), Err(Invalid::Cycle(_))));
    }

    #[test]
    fn tasks_are_ordered_after_what_they_need_whatever_else_they_need() {
        let tasks = chain(&[("c", &["b", "elsewhere"]), ("b", &["a"]), ("d", &[]), ("a", &[])]);
        let names: Vec<&str> = in_order(&tasks).unwrap().into_iter().map(|n| tasks[n].id.0.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_circle_of_a_thousand_is_refused_and_its_beginning_is_named() {
        let id = |n: usize| TaskId(format!("t{}", n % 1_000));
        let task = |n| NewTask { depends_on: vec![id(n + 1)], ..NewTask::new(id(n), "q", Json::null()) };
        let tasks: Vec<NewTask> = (0..1_000).map(task).collect();
        let Err(Invalid::Cycle(members)) = in_order(&tasks) else { panic!("taken") };
        assert_eq!(members.len(), 1_000);
        let said = Invalid::Cycle(members).to_string();
        assert!(said.starts_with("these tasks wait for each other: t0 → t1 → t2 → "), "{said}");
        assert!(said.len() < 200, "{said}");
    }

    #[test]
    fn a_graph_with_unknown_or_repeated_names_is_refused_with_the_name() {
        let refused = check_graph(&chain(&[("a", &["b"])])).unwrap_err().to_string();
        assert_eq!(refused, "task a depends on b, which is not there; add it, or correct the name");
        assert!(matches!(check_graph(&chain(&[("a", &[]), ("a", &[])])), Err(Invalid::Duplicate(_))));
    }

    #[test]
    fn a_graph_is_taken_up_to_its_limit_even_as_one_long_chain() {
        let names: Vec<String> = (0..=RUN_TASKS_MAX).map(|n| n.to_string()).collect();
        let mut tasks: Vec<NewTask> = (0..RUN_TASKS_MAX)
            .map(|n| NewTask {
                depends_on: vec![TaskId(names[n + 1].clone())],
                ..NewTask::new(TaskId(names[n].clone()), "q", Json::null())
            })
            .collect();
        tasks[RUN_TASKS_MAX - 1].depends_on.clear();
        assert_eq!(check_graph(&tasks), Ok(()));
        tasks.push(NewTask::new(TaskId("one more".into()), "q", Json::null()));
        assert!(matches!(check_graph(&tasks), Err(Invalid::TooMany { .. })));
    }
}
