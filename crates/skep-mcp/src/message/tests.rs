use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn refusal(text: &str) -> Malformed {
    parse(text.as_bytes()).unwrap_err()
}

fn single(text: &str) -> Message {
    match parse(text.as_bytes()) {
        Ok(Incoming::Single(message)) => message,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn what_could_be_two_kinds_of_message_is_none() {
    for text in [
        r#"{"jsonrpc":"2.0","id":7,"method":"a","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"a","result":null}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"a","error":{"code":1,"message":"m"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":"m"}}"#,
        r#"{"jsonrpc":"2.0","id":7}"#,
    ] {
        let refusal = refusal(text);
        assert_eq!((refusal.error.code, refusal.id), (INVALID_REQUEST, Some(Id::Number(7))), "{text}");
    }
}

#[test]
fn null_for_what_is_left_out_is_read_as_nothing() {
    let Message::Request(request) = single(r#"{"jsonrpc":"2.0","id":1,"method":"a","params":null,"error":null}"#)
    else {
        panic!("no request")
    };
    assert!(request.params.is_none());
    let Message::Response(response) = single(r#"{"jsonrpc":"2.0","id":1,"result":null,"error":null}"#) else {
        panic!("no response")
    };
    assert_eq!(response.outcome.unwrap().get(), "null");
}

#[test]
fn a_result_needs_an_id_and_an_error_does_not() {
    for id in ["", r#""id":null,"#, r#""id":1.5,"#, r#""id":[],"#] {
        let refused = refusal(&format!(r#"{{"jsonrpc":"2.0",{id}"result":{{}}}}"#));
        assert_eq!((refused.error.code, refused.id), (INVALID_REQUEST, None), "{id}");
    }
    for id in ["", r#""id":null,"#] {
        let error = single(&format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":1,"message":"m"}}}}"#));
        assert!(matches!(error, Message::Response(Response { id: None, outcome: Err(_) })), "{id}");
    }
}

#[test]
fn a_request_has_an_id_that_is_a_string_or_an_integer() {
    for id in ["null", "1.5", "true", "{}", "9223372036854775808"] {
        let refused = refusal(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"a"}}"#));
        assert_eq!((refused.error.code, refused.id), (INVALID_REQUEST, None), "{id}");
    }
}

#[test]
fn a_member_that_is_there_twice_is_refused_under_the_id_if_there_is_one() {
    let refused = refusal(r#"{"jsonrpc":"2.0","method":"a","method":"b","id":"x"}"#);
    assert_eq!((refused.error.code, refused.id), (INVALID_REQUEST, Some(Id::String("x".to_owned()))));
    let refused = refusal(r#"{"jsonrpc":"2.0","id":1,"method":"a","id":2}"#);
    assert_eq!((refused.error.code, refused.id), (INVALID_REQUEST, None));
    single(r#"{"jsonrpc":"2.0","method":"a","other":1,"other":2}"#);
}

#[test]
fn a_batch_has_a_limit_and_its_messages_stand_for_themselves() {
    let batch = |count: usize| format!("[{}]", vec![r#"{"jsonrpc":"2.0","method":"a"}"#; count].join(","));
    assert!(matches!(parse(batch(BATCH_MAX).as_bytes()), Ok(Incoming::Batch(all)) if all.len() == BATCH_MAX));
    assert_eq!(refusal(&batch(BATCH_MAX + 1)).error.code, INVALID_REQUEST);
    assert_eq!(refusal("[]").error.code, INVALID_REQUEST);
    let Ok(Incoming::Batch(mixed)) = parse(br#"[1, {"jsonrpc":"2.0","method":"a"}, []]"#) else { panic!("no batch") };
    assert_eq!(mixed.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn depth_is_bounded_at_the_limit_and_a_bomb_is_only_an_error() {
    let nested = |depth: usize| {
        format!(r#"{{"jsonrpc":"2.0","method":"a","params":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    single(&nested(DEPTH_MAX - 1));
    assert_eq!(refusal(&nested(DEPTH_MAX)).error.code, INVALID_REQUEST);
    assert_eq!(refusal(&nested(5_000_000)).error.code, INVALID_REQUEST);
    assert_eq!(refusal(&"[".repeat(10_000_000)).error.code, PARSE_ERROR);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn id() -> impl Strategy<Value = Id> {
    prop_oneof![any::<i64>().prop_map(Id::Number), any::<String>().prop_map(Id::String)]
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_members_are_a_message_or_an_error(members in prop::collection::vec(
        (prop::sample::select(vec!["jsonrpc", "id", "method", "params", "result", "error", "x"]),
         prop_oneof![value(), Just(Value::from("2.0"))]), 0..7)) {
        let members: Vec<String> = members.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
        let text = format!("{{{}}}", members.join(","));
        if let Ok(Incoming::Single(message)) = parse(text.as_bytes()) {
            prop_assert!(parse(message.to_line().as_bytes()).is_ok());
        }
    }

    #[test]
    fn a_request_survives_with_every_byte_of_what_it_carries(
        id in id(),
        method in prop_oneof![any::<String>(), Just("tools/call".to_owned())],
        params in value(),
    ) {
        let params = serde_json::to_string_pretty(&serde_json::json!({ "unknown": params })).unwrap();
        let text = format!(r#"{{"x":1,"params":{params},"method":{},"id":{},"jsonrpc":"2.0"}}"#, json(&method), json(&id));
        let Message::Request(request) = single(&text) else { panic!("no request") };
        prop_assert_eq!((&request.id, &*request.method), (&id, &*method));
        prop_assert_eq!(request.params.as_deref().map(RawValue::get), Some(params.as_str()));
        let line = Message::Request(request).to_line();
        prop_assert!(!line.contains(['\n', '\r']));
        let Message::Request(again) = single(&line) else { panic!("no request") };
        prop_assert_eq!((again.id, &*again.method), (id, &*method));
        let again: Value = serde_json::from_str(again.params.unwrap().get()).unwrap();
        prop_assert_eq!(again, serde_json::from_str::<Value>(&params).unwrap());
    }
}
