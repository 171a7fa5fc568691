//! The controller over HTTP, on SQLite and (where POOL_TEST_POSTGRES names a server) on PostgreSQL: the same tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the report")]
#![allow(clippy::needless_pass_by_value, reason = "json!() at the call reads best without &")]

mod support;

use serde_json::{Value, json};
use support::{Client, World, each};

/// Registers an agent; gives a client that acts for it, and its number.
fn register(world: &World, name: &str, version: &str) -> (Client, i64) {
    let admin = world.admin();
    let token = admin.ok("POST", "/tokens", json!({ "name": format!("register-{name}"), "role": "register", "pool": "p" }));
    let answer =
        world.client(token["token"].as_str().unwrap()).ok("POST", "/pools/p/agents", json!({ "name": name, "version": version }));
    (world.client(answer["key"].as_str().unwrap()), answer["id"].as_i64().unwrap())
}

fn catalog(world: &World) {
    let admin = world.admin();
    admin.ok("POST", "/pools", json!({ "name": "p" }));
    admin.ok("PUT", "/pools/p/tasks/Plain/1", json!({}));
    admin.ok("PUT", "/pools/p/tasks/MyTask/1.2.3", json!({ "minimumAgentVersion": "2.175.1" }));
    admin.ok("PUT", "/pools/p/features/X", json!({ "minimumAgentVersion": "3.0" }));
}

fn job(task: &str, version: &str) -> Value {
    json!({ "tasks": [{ "name": task, "version": version }] })
}

/// Publishes a release with a package of `content`.
fn publish(world: &World, version: &str, content: &[u8]) {
    let admin = world.admin();
    let sha256 = pool_controller::auth::hex(ring::digest::digest(&ring::digest::SHA256, content).as_ref());
    assert_eq!(admin.upload(&format!("/files/{sha256}"), content).0, 204);
    admin.ok(
        "POST",
        "/pools/p/releases",
        json!({ "version": version, "file": "agent.deb", "sha256": sha256, "signature": "0".repeat(128) }),
    );
}

#[test]
fn a_job_in_no_update_mode_fails_at_once_with_the_owners_words() {
    each(|world| {
        catalog(world);
        let admin = world.admin();
        register(world, "a", "2.9.0");
        publish(world, "3.0", b"package");
        admin.ok("PUT", "/pools/p/policy", json!({ "mode": "noUpdate", "reason": "Change freeze until March." }));
        let failed =
            admin.ok("POST", "/pools/p/jobs", json!({ "tasks": [{ "name": "MyTask", "version": "1.2.3" }], "features": ["X"] }));
        assert_eq!(
            failed["state"]["error"],
            "This pool doesn't allow agent updates.\n\
             Feature `X` requires agent version 3.0, and no agents with that version are registered.\n\
             Task `MyTask` version 1.2.3 requires agent version 2.175.1, and no agents with that version are registered.\n\
             Change freeze until March."
        );
        let agent = admin.ok("GET", "/pools/p/agents/a", Value::Null);
        assert_eq!((&agent["state"], &agent["level"], &agent["behind"]), (&json!("online"), &json!("info"), &json!(true)));
        // A person's wish goes through, and is written down.
        admin.ok("POST", "/pools/p/agents/update", json!({ "agents": ["a"] }));
        assert_eq!(admin.ok("GET", "/pools/p/agents/a", Value::Null)["state"], "updating");
        let audit = admin.ok("GET", "/pools/p/audit", Value::Null);
        let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|line| line["action"].as_str().unwrap()).collect();
        assert_eq!(&actions[..2], ["update", "policy"]);
        assert_eq!(audit["items"][0]["actor"], "admin");
    });
}

#[test]
fn a_job_in_normal_mode_makes_an_agent_update_and_runs_on_it() {
    each(|world| {
        catalog(world);
        let admin = world.admin();
        let (agent, id) = register(world, "a", "2.9.0");
        publish(world, "3.0", b"package");
        let queued = admin.ok("POST", "/pools/p/jobs", job("MyTask", "1.2.3"));
        assert_eq!((&queued["state"]["state"], &queued["waiting"]["for"]), (&json!("queued"), &json!("update")));
        let at = |rest: &str| format!("/pools/p/agents/{id}{rest}");
        let told = agent.ok("POST", &at("/poll?wait=5"), json!({ "version": "2.9.0" }));
        assert_eq!((&told["message"]["message"], &told["message"]["release"]["version"]), (&json!("update"), &json!("3.0")));
        // What runs is published, too: then the agent hears what it can go back to.
        assert_eq!(told["message"]["previous"], Value::Null);
        publish(world, "2.9.0", b"package of today");
        let told = agent.ok("POST", &at("/poll?wait=5"), json!({ "version": "2.9.0" }));
        assert_eq!(told["message"]["previous"]["version"], "2.9.0");
        agent.ok("POST", &at("/update/accept"), json!({ "to": "3.0" }));
        agent.ok(
            "POST",
            &at("/report"),
            json!({ "version": "2.9.0", "doing": { "doing": "update", "to": "3.0", "step": "installing" } }),
        );
        assert_eq!(admin.ok("GET", "/pools/p/agents/a", Value::Null)["detail"], "to 3.0: installing");
        // The download goes on where it broke off.
        let (status, rest) = agent.download(&at("/releases/3.0/file"), Some("bytes=3-"));
        assert_eq!((status, rest.as_slice()), (206, &b"kage"[..]));
        assert_eq!(agent.download(&at("/releases/3.0/file"), Some("bytes=7-")).0, 416);
        agent.ok("POST", &at("/update/end"), json!({ "to": "3.0", "version": "3.0", "outcome": "well" }));
        let told = agent.ok("POST", &at("/poll?wait=5"), json!({ "version": "3.0" }));
        assert_eq!(told["message"]["message"], "run");
        let attempt = json!({ "attempt": told["message"]["attempt"] });
        let number = &told["message"]["job"];
        agent.ok("POST", &at(&format!("/jobs/{number}/begin")), attempt.clone());
        agent.ok("POST", &at(&format!("/jobs/{number}/end")), json!({ "attempt": 1, "outcome": "well", "result": "{}" }));
        assert_eq!(admin.ok("GET", &format!("/pools/p/jobs/{number}?wait=5"), Value::Null)["state"]["state"], "succeeded");
    });
}

#[test]
fn an_agent_that_waits_is_told_at_once_by_whichever_controller() {
    each(|world| {
        catalog(world);
        let (agent, id) = register(world, "a", "2.9.0");
        // Where there are two controllers, the agent asks the second.
        let agent = agent.at(world.last());
        let asking = std::thread::spawn(move || {
            agent.ok("POST", &format!("/pools/p/agents/{id}/poll?wait=50"), json!({ "version": "2.9.0" }))
        });
        let submitted = world.admin().ok("POST", "/pools/p/jobs", job("Plain", "1"));
        let told = asking.join().unwrap();
        assert_eq!((&told["message"]["message"], &told["message"]["job"]), (&json!("run"), &submitted["id"]));
    });
}

#[test]
fn bad_input_is_a_clear_problem_and_changes_nothing() {
    each(|world| {
        catalog(world);
        let admin = world.admin();
        let (agent, id) = register(world, "a", "2.9.0");
        let before = admin.ok("GET", "/pools/p/audit", Value::Null);
        let reason = |n: usize| json!({ "mode": "noUpdate", "reason": "ä".repeat(n) });
        let release = |version: &str, sha256: String, signature: String| json!({ "version": version, "file": "f.deb", "sha256": sha256, "signature": signature });
        let rows: Vec<(&str, &str, Value, u16, &str)> = vec![
            ("PUT", "/pools/p/policy", reason(401), 422, "the reason has 401 characters; at most 400 are allowed"),
            ("PUT", "/pools/p/policy", json!({ "mode": "sometimes" }), 422, "unknown variant `sometimes`"),
            ("PUT", "/pools/p/settings", json!({ "updateWithin": 5 }), 422, "less than a second"),
            // What is misspelt is not left out.
            ("PUT", "/pools/p/settings", json!({ "updatewithin": 5000 }), 422, "unknown field `updatewithin`"),
            ("PUT", "/pools/p/policy", json!({ "mode": "noUpdate", "reasons": "x" }), 422, "unknown field `reasons`"),
            ("PUT", "/pools/p/policy", json!({ "mode": "normal", "reason": "x" }), 422, "unknown field `reason`"),
            (
                "POST",
                "/pools/p/jobs",
                json!({ "tasks": [{ "name": "Plain", "version": "1" }], "demand": ["gpu exists"] }),
                422,
                "unknown field `demand`",
            ),
            (
                "POST",
                "/pools/p/jobs",
                json!({ "tasks": [{ "name": "Plain", "version": "1", "inputs": "x" }] }),
                422,
                "unknown field `inputs`",
            ),
            // What stands in the address is read like what stands in the body.
            ("PUT", "/pools/p/tasks/T/1..2", json!({}), 422, "`1..2` is not a version"),
            ("PUT", "/pools/p/tasks/%FF/1", json!({}), 422, "Invalid UTF-8"),
            ("DELETE", "/pools/p/releases/v1", Value::Null, 422, "`v1` is not a version"),
            ("GET", "/pools/p/jobs/one", Value::Null, 422, "`one`"),
            ("GET", "/pools/p/jobs?cursor=one", Value::Null, 422, "cursor: invalid digit"),
            ("GET", "/pools/p/agents?version=v1", Value::Null, 422, "`v1` is not a version"),
            ("GET", "/pools/p/audit?limit=-1", Value::Null, 422, "limit: invalid digit"),
            ("PUT", "/pools/p/tasks/%2E%2E/1", json!({}), 422, "the task cannot be named `..`"),
            ("POST", "/pools", json!({ "name": "." }), 422, "the pool cannot be named `.`"),
            // PostgreSQL has no such character in a text.
            ("POST", "/pools/p/releases", release("4.0", "\0".into(), "0".repeat(128)), 422, "64 lower-case hexadecimal digits"),
            ("DELETE", "/tokens/%00", Value::Null, 404, "there is no token of that name"),
            ("DELETE", "/tokens/admin", Value::Null, 409, "the last token of an administrator"),
            ("POST", "/pools/p/jobs", job("NoSuchTask", "1"), 404, "there is no task `NoSuchTask`"),
            ("POST", "/pools/p/jobs", job("MyTask", "9"), 404, "task `MyTask` has no version 9; it has 1.2.3"),
            ("POST", "/pools/p/jobs", job("MyTask", "v1"), 422, "`v1` is not a version"),
            ("POST", "/pools/p/jobs", json!({ "tasks": [] }), 422, "at least one task"),
            (
                "POST",
                "/pools/p/jobs",
                json!({ "tasks": [{ "name": "Plain", "version": "1" }], "features": ["Z"] }),
                404,
                "there is no feature `Z`",
            ),
            (
                "POST",
                "/pools/p/jobs",
                json!({ "tasks": [{ "name": "Plain", "version": "1" }], "demands": ["gpu"] }),
                422,
                "is not a demand",
            ),
            ("POST", "/pools/p/releases", release("4.0", "a".repeat(64), "0".repeat(128)), 409, "the package is not here yet"),
            ("POST", "/pools/p/agents/update", json!({ "agents": ["nobody"] }), 404, "there is no agent `nobody`"),
            ("POST", "/pools/p/agents/update", json!({}), 422, "either `all` is true"),
            ("POST", "/pools/p/agents/update", json!({ "agents": ["a"], "to": "7" }), 404, "there is no release 7"),
            ("POST", "/pools/none/jobs", job("Plain", "1"), 404, "there is no pool `none`"),
            ("POST", "/pools", json!({ "name": "a b" }), 422, "has the character ` `"),
            ("POST", "/pools", json!({ "name": "p" }), 409, "there is a pool `p` already"),
            ("GET", "/pools/p/agents?sort=age", Value::Null, 422, "sort is one of"),
            ("GET", "/nothing", Value::Null, 404, "there is nothing at this address"),
            ("DELETE", "/pools/p/jobs", Value::Null, 405, "openapi.json"),
            ("DELETE", "/pools/p/agents/a", Value::Null, 204, ""),
        ];
        // The last row changes something, and stands for the others: such a request would be seen.
        let (bad, good) = rows.split_at(rows.len() - 1);
        for (method, path, body, status, words) in bad {
            let (got, problem) = admin.call(method, path, body.clone());
            assert_eq!(got, *status, "{method} {path} {body}: {problem}");
            assert!(problem["detail"].as_str().unwrap().contains(words), "{method} {path} {body}: {problem}");
            assert_eq!((&problem["status"], problem["type"].as_str().is_some()), (&json!(status), true));
        }
        // What was sent is quoted, not sent back whole.
        let (status, problem) = admin.call("PUT", "/pools/p/policy", json!({ "mode": "x".repeat(1 << 20) }));
        assert!(status == 422 && problem["detail"].as_str().unwrap().chars().count() == 1001, "{problem}");
        // Truncated, malformed, oversized.
        let sha256 = pool_controller::auth::hex(ring::digest::digest(&ring::digest::SHA256, b"whole package").as_ref());
        let (status, problem) = admin.upload(&format!("/files/{sha256}"), b"whole pack");
        assert!(status == 422 && problem["detail"].as_str().unwrap().contains("10 bytes"), "{problem}");
        let (status, problem) = admin.raw("POST", "/pools/p/jobs", "{\"tasks\": [");
        assert!(status == 400 && problem["detail"].as_str().unwrap().contains("line 1 column"), "{problem}");
        let (status, problem) = admin.raw("POST", "/pools/p/jobs", &format!("\"{}\"", "x".repeat(10 << 20)));
        assert_eq!((status, problem["type"].as_str()), (413, Some("/problems/too-large")), "{problem}");
        // What is long is read of those who are known, persons and agents, and of nobody else.
        let long = "x".repeat(1 << 20);
        assert_eq!(world.client("apat_0000").raw("POST", "/pools/p/jobs", &long).0, 401);
        assert_eq!(world.client("apat_0000").raw("POST", &format!("/pools/p/agents/{id}/poll"), &long).0, 401);
        assert_eq!(admin.raw("POST", "/pools/p/jobs", &long).0, 400);
        assert_eq!(agent.raw("POST", &format!("/pools/p/agents/{id}/poll"), &long).0, 400);
        // Wrong words of an agent.
        let at = |rest: &str| format!("/pools/p/agents/{id}{rest}");
        for (path, body, status) in [
            ("/jobs/77/begin", json!({ "attempt": 1 }), 409),
            ("/update/accept", json!({ "to": "3.0" }), 409),
            ("/poll", json!({ "version": "two" }), 422),
            ("/poll", json!({ "version": "2.9.0", "capabilities": { "a b": "c" } }), 422),
        ] {
            assert_eq!(agent.call("POST", &at(path), body).0, status, "{path}");
        }
        assert_eq!(admin.ok("GET", "/pools/p/audit", Value::Null), before, "something changed");
        assert_eq!(admin.ok("GET", "/pools/p/jobs", Value::Null)["items"], json!([]));
        let (method, path, body, status, _) = &good[0];
        assert_eq!(admin.call(method, path, body.clone()).0, *status);
        assert_ne!(admin.ok("GET", "/pools/p/audit", Value::Null), before);
        assert_eq!(
            agent.call("POST", &at("/poll"), json!({ "version": "2.9.0" })).0,
            401,
            "a removed agent's key is good for nothing"
        );
    });
}

#[test]
fn every_role_may_what_it_may_and_nothing_else() {
    each(|world| {
        catalog(world);
        let admin = world.admin();
        admin.ok("POST", "/pools", json!({ "name": "other" }));
        let token = |name: &str, role: &str, pool: Option<&str>| {
            let made = admin.ok("POST", "/tokens", json!({ "name": name, "role": role, "pool": pool }));
            world.client(made["token"].as_str().unwrap())
        };
        let (reader, operator) = (token("r", "reader", None), token("o", "operator", None));
        let (elsewhere, register) = (token("e", "administrator", Some("other")), token("g", "register", Some("p")));
        let nobody = world.client("apat_0000");
        let rows: [(&str, &str, Value, [u16; 6]); 9] = [
            //                                                                     reader op  admin else reg  none
            ("GET", "/pools/p", Value::Null, [200, 200, 200, 403, 403, 401]),
            ("GET", "/pools/p/agents", Value::Null, [200, 200, 200, 403, 403, 401]),
            ("POST", "/pools/p/jobs", job("Plain", "1"), [403, 201, 201, 403, 403, 401]),
            ("POST", "/pools/p/agents/update", json!({ "all": true }), [403, 200, 200, 403, 403, 401]),
            ("POST", "/pools/p/agents/update", json!({ "all": true, "force": true }), [403, 403, 200, 403, 403, 401]),
            ("PUT", "/pools/p/policy", json!({ "mode": "normal" }), [403, 403, 200, 403, 403, 401]),
            ("PUT", "/pools/p/tasks/T/1", json!({}), [403, 403, 200, 403, 403, 401]),
            ("GET", "/tokens", Value::Null, [403, 403, 200, 403, 403, 401]),
            ("POST", "/tokens", json!({ "name": "x y", "role": "reader" }), [403, 403, 422, 403, 403, 401]),
        ];
        for (method, path, body, expected) in rows {
            for (client, status) in [&reader, &operator, &admin, &elsewhere, &register, &nobody].into_iter().zip(expected) {
                let (got, answer) = client.call(method, path, body.clone());
                assert_eq!(got, status, "{method} {path} {body}: {answer}");
            }
        }
        assert_eq!(elsewhere.ok("GET", "/pools", Value::Null)["items"], json!([{ "name": "other" }]));
        // Secrets are told once, and stored nowhere.
        let listed = admin.ok("GET", "/tokens", Value::Null).to_string();
        assert!(!listed.contains("apat_") && !listed.contains("apar_"), "{listed}");
        admin.ok("DELETE", "/tokens/r", Value::Null);
        assert_eq!(reader.call("GET", "/pools/p", Value::Null).0, 401);
    });
}

#[test]
fn a_registration_token_registers_one_agent() {
    each(|world| {
        catalog(world);
        let made = world.admin().ok("POST", "/tokens", json!({ "name": "t", "role": "register", "pool": "p" }));
        let token = world.client(made["token"].as_str().unwrap());
        // What can be no agent uses nothing up. An agent with the number of another for its name would be taken for that one.
        for (name, words) in [("a b", "has the character ` `"), ("..", "cannot be named"), ("3", "is a number")] {
            let (status, problem) = token.call("POST", "/pools/p/agents", json!({ "name": name, "version": "1.0" }));
            assert!(status == 422 && problem["detail"].as_str().unwrap().contains(words), "{problem}");
        }
        assert_eq!(token.call("POST", "/pools/p/agents", json!({ "name": "a", "version": "1.0" })).0, 201);
        for name in ["a", "b"] {
            let (status, problem) = token.call("POST", "/pools/p/agents", json!({ "name": name, "version": "1.0" }));
            assert!(status == 401 && problem["detail"].as_str().unwrap().contains("used before"), "{problem}");
        }
        assert_eq!(world.admin().ok("GET", "/pools/p/agents", Value::Null)["total"], 1);
    });
}

#[test]
fn a_submission_with_a_key_is_one_job_however_often_it_is_sent() {
    each(|world| {
        catalog(world);
        let admin = world.admin();
        register(world, "a", "1.0");
        let first = admin.keyed("k1", &job("Plain", "1"));
        let again = admin.keyed("k1", &job("Plain", "1"));
        assert_eq!((first.0, again.0, &first.1["id"]), (201, 200, &again.1["id"]));
        assert_eq!(admin.keyed("k1", &job("MyTask", "1.2.3")).0, 409);
        assert_ne!(admin.keyed("k2", &job("Plain", "1")).1["id"], first.1["id"]);
        assert_eq!(admin.ok("GET", "/pools/p/jobs", Value::Null)["items"].as_array().unwrap().len(), 2);
    });
}

#[test]
fn lists_go_on_where_they_ended() {
    each(|world| {
        catalog(world);
        let admin = world.admin();
        for n in 0..5 {
            register(world, &format!("m{n}"), ["1.10", "1.9"][n % 2]);
        }
        for _ in 0..5 {
            admin.ok("POST", "/pools/p/jobs", job("Plain", "1"));
        }
        let mut names = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let page = admin.ok("GET", &format!("/pools/p/agents?limit=2&sort=-version&cursor={cursor}"), Value::Null);
            names.extend(page["items"].as_array().unwrap().iter().map(|agent| agent["name"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => cursor = next.into(),
                None => break,
            }
        }
        assert_eq!(names, ["m4", "m2", "m0", "m3", "m1"]);
        let first = admin.ok("GET", "/pools/p/jobs?limit=3", Value::Null);
        let rest = admin.ok("GET", &format!("/pools/p/jobs?limit=3&cursor={}", first["next"]), Value::Null);
        let ids =
            |page: &Value| page["items"].as_array().unwrap().iter().map(|job| job["id"].as_i64().unwrap()).collect::<Vec<_>>();
        assert_eq!((ids(&first), ids(&rest)), (vec![5, 4, 3], vec![2, 1]));
    });
}

#[test]
fn what_was_answered_survives_the_controller() {
    each(|world| {
        catalog(world);
        register(world, "a", "1.0");
        let submitted = world.admin().ok("POST", "/pools/p/jobs", job("Plain", "1"));
        let before = world.admin().ok("GET", "/pools/p", Value::Null);
        world.restart();
        let after = world.admin().ok("GET", "/pools/p", Value::Null);
        assert_eq!((&before["agents"], &before["jobs"]), (&after["agents"], &after["jobs"]));
        assert_eq!(
            world.admin().ok("GET", &format!("/pools/p/jobs/{}", submitted["id"]), Value::Null)["state"],
            submitted["state"]
        );
    });
}

#[test]
fn the_audit_table_only_grows() {
    each(|world| {
        catalog(world);
        for statement in ["UPDATE audit SET actor = 'somebody'", "DELETE FROM audit"] {
            let error = world.sql(statement).unwrap_err();
            assert!(error.contains("append-only"), "{error}");
        }
        // What would put another line in the place of one.
        let line = "INSERT INTO audit (id, at, actor, action, detail) SELECT id, 0, 'a', 'b', 'c' FROM audit WHERE true";
        for statement in
            [line.replacen("INSERT", "INSERT OR REPLACE", 1), format!("{line} ON CONFLICT (id) DO UPDATE SET actor = 'x'")]
        {
            assert!(world.sql(&statement).is_err(), "{statement}");
        }
    });
}

#[test]
fn every_route_is_described_and_every_description_has_its_route() {
    let source = include_str!("../src/api/mod.rs");
    let description: Value = serde_json::from_str(pool_controller::api::DESCRIPTION).unwrap();
    let mut routes = Vec::new();
    for line in source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let (path, handlers) = line.split_once('"').unwrap();
        for method in ["get", "post", "put", "delete"] {
            if handlers.contains(&format!("{method}(")) {
                routes.push((path.to_owned(), method.to_owned()));
            }
        }
    }
    let paths = description["paths"].as_object().unwrap();
    let methods = |(path, item): (&String, &Value)| {
        item.as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "parameters")
            .map(|key| (path.clone(), key.clone()))
            .collect::<Vec<_>>()
    };
    let mut described: Vec<_> = paths.iter().flat_map(methods).collect();
    routes.sort();
    described.sort();
    assert_eq!(routes, described);
}

#[test]
fn answers_have_the_described_shape() {
    each(|world| {
        catalog(world);
        register(world, "a", "1.0");
        publish(world, "3.0", b"x");
        let admin = world.admin();
        admin.ok("POST", "/pools/p/jobs", job("Plain", "1"));
        let description: Value = serde_json::from_str(pool_controller::api::DESCRIPTION).unwrap();
        for path in [
            "/pools",
            "/pools/{pool}",
            "/pools/{pool}/audit",
            "/pools/{pool}/agents",
            "/pools/{pool}/agents/{agent}",
            "/pools/{pool}/jobs",
            "/pools/{pool}/jobs/{job}",
            "/pools/{pool}/releases",
            "/pools/{pool}/tasks",
            "/pools/{pool}/features",
            "/tokens",
        ] {
            let answer = admin.ok("GET", &path.replace("{pool}", "p").replace("{agent}", "a").replace("{job}", "1"), Value::Null);
            let schema = &description["paths"][format!("/api/v1{path}")]["get"]["responses"]["200"]["content"]["application/json"]
                ["schema"];
            support::conforms(&answer, schema, &description, path);
        }
        let (_, problem) = admin.call("GET", "/pools/none", Value::Null);
        support::conforms(&problem, &json!({ "$ref": "#/components/schemas/Problem" }), &description, "problem");
    });
}

#[test]
fn a_second_controller_on_a_file_is_refused() {
    let world = World::sqlite();
    let error = world.open_again().unwrap_err();
    assert!(error.contains("is used by another controller"), "{error}");
}

#[test]
fn deadlines_are_held_without_anybody_asking() {
    each(|world| {
        catalog(world);
        let admin = world.admin();
        register(world, "a", "1.0");
        admin.ok("PUT", "/pools/p/settings", json!({ "offlineAfter": 1000, "beginWithin": 1000 }));
        // The first job is given to the agent, which never says a word again: it is put back.
        let submitted = admin.ok("POST", "/pools/p/jobs", job("Plain", "1"));
        let mut revision = 0;
        for _ in 0..60 {
            let shown = admin.ok("GET", &format!("/pools/p/jobs/{}", submitted["id"]), Value::Null);
            if shown["state"]["state"] == "queued" {
                assert_eq!(admin.ok("GET", "/pools/p/agents/a", Value::Null)["state"], "offline");
                return;
            }
            let changes = admin.ok("GET", &format!("/pools/p/changes?since={revision}&wait=5"), Value::Null);
            revision = changes["revision"].as_i64().unwrap();
        }
        panic!("nobody holds the deadlines");
    });
}

/// Does all that it is told until there is nothing for a second; gives the jobs.
fn work(agent: &Client, id: i64) -> Vec<i64> {
    let at = |rest: &str| format!("/pools/p/agents/{id}{rest}");
    let mut done = Vec::new();
    loop {
        let told = agent.ok("POST", &at("/poll?wait=1"), json!({ "version": "1.0" }));
        let Some(number) = told["message"]["job"].as_i64() else { return done };
        let attempt = &told["message"]["attempt"];
        agent.ok("POST", &at(&format!("/jobs/{number}/begin")), json!({ "attempt": attempt }));
        agent.ok("POST", &at(&format!("/jobs/{number}/end")), json!({ "attempt": attempt, "outcome": "well" }));
        done.push(number);
    }
}

#[test]
fn jobs_submitted_everywhere_at_once_are_each_handed_out_once() {
    each(|world| {
        catalog(world);
        let agents: Vec<_> = (0..4).map(|n| register(world, &format!("m{n}"), "1.0")).collect();
        let submitted: Vec<i64> = std::thread::scope(|scope| {
            let submitters: Vec<_> = (0..4)
                .map(|n| {
                    scope.spawn(move || {
                        let admin = if n % 2 == 0 { world.admin() } else { world.admin().at(world.last()) };
                        // Two of them send the same.
                        let key = |job: usize| format!("{}-{job}", n / 2);
                        let one = |job| admin.keyed(&key(job), &self::job("Plain", "1")).1["id"].as_i64().unwrap();
                        (0..10).map(one).collect::<Vec<_>>()
                    })
                })
                .collect();
            submitters.into_iter().flat_map(|submitter| submitter.join().unwrap()).collect()
        });
        let mut expected = submitted.clone();
        expected.sort_unstable();
        expected.dedup();
        assert_eq!((submitted.len(), expected.len()), (40, 20));
        let mut done: Vec<i64> = std::thread::scope(|scope| {
            let workers: Vec<_> = agents
                .into_iter()
                .enumerate()
                .map(|(n, (agent, id))| {
                    let agent = if n % 2 == 0 { agent } else { agent.at(world.last()) };
                    scope.spawn(move || work(&agent, id))
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        done.sort_unstable();
        assert_eq!(done, expected);
    });
}

#[test]
fn an_agent_that_is_removed_at_one_controller_is_unknown_to_all() {
    each(|world| {
        catalog(world);
        let (agent, id) = register(world, "a", "1.0");
        publish(world, "3.0", b"package");
        let agent = agent.at(world.last());
        let at = |rest: &str| format!("/pools/p/agents/{id}{rest}");
        agent.ok("POST", &at("/poll"), json!({ "version": "1.0" }));
        assert_eq!(agent.download(&at("/releases/3.0/file"), None).0, 200);
        world.admin().ok("DELETE", "/pools/p/agents/a", Value::Null);
        assert_ne!(agent.download(&at("/releases/3.0/file"), None).0, 200);
        for (path, body) in [("/poll", json!({ "version": "1.0" })), ("/jobs/1/begin", json!({ "attempt": 1 }))] {
            assert_eq!(agent.call("POST", &at(path), body).0, 401, "{path}");
        }
    });
}

#[test]
fn what_ended_long_ago_is_forgotten_a_little_at_a_time_and_the_audit_table_never() {
    each(|world| {
        catalog(world);
        let admin = world.admin();
        let (agent, id) = register(world, "a", "1.0");
        for n in 0..4 {
            admin.keyed(&format!("k{n}"), &job("Plain", "1"));
        }
        assert_eq!(work(&agent, id), [1, 2, 3, 4]);
        // The fifth has just failed.
        admin.ok("POST", "/pools/p/jobs", json!({ "tasks": [{ "name": "Plain", "version": "1" }], "demands": ["gpu exists"] }));
        let audit = admin.ok("GET", "/pools/p/audit", Value::Null);
        let ids = || {
            let jobs = admin.ok("GET", "/pools/p/jobs", Value::Null);
            jobs["items"].as_array().unwrap().iter().map(|job| job["id"].as_i64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(world.forget(1, 1000, 1000, 500), 0, "nothing is that old");
        world.sql("UPDATE jobs SET ended = 1000 + id WHERE id < 4 AND ended > 0").unwrap();
        world.sql("UPDATE submissions SET at = 1000 WHERE key < 'k2'").unwrap();
        assert_eq!(world.forget(1, 2000, 0, 2), 2);
        assert_eq!(ids(), [5, 4, 3], "the oldest go first");
        // A controller does the rest by itself, soon after its start.
        world.restart();
        let admin = world.admin();
        let mut tries = 0;
        while admin.call("GET", "/pools/p/jobs/3", Value::Null).0 == 200 {
            tries += 1;
            assert!(tries < 60, "nobody forgets");
            let revision = admin.ok("GET", "/pools/p/changes", Value::Null)["revision"].clone();
            admin.ok("GET", &format!("/pools/p/changes?since={revision}&wait=1"), Value::Null);
        }
        let jobs = admin.ok("GET", "/pools/p/jobs", Value::Null);
        assert_eq!(jobs["items"].as_array().unwrap().len(), 2);
        assert_eq!(admin.ok("GET", "/pools/p/audit", Value::Null), audit);
        // The token that registered the agent was used just now: it stays.
        assert_eq!(admin.ok("GET", "/tokens", Value::Null)["items"].as_array().unwrap().len(), 2);
        // A key that is gone is a new one; one that is not still stands for its job.
        assert_eq!(admin.keyed("k0", &job("Plain", "1")).0, 201);
        assert_eq!(admin.keyed("k3", &job("Plain", "1")).1["id"], 4);
        for (settings, words) in
            [(json!({ "keepJobs": 1000 }), "at least an hour"), (json!({ "keepJobs": 4_000_000 }), "not for less time than keys")]
        {
            let (status, problem) = admin.call("PUT", "/pools/p/settings", settings);
            assert!(status == 422 && problem["detail"].as_str().unwrap().contains(words), "{problem}");
        }
    });
}

#[test]
fn tables_of_the_first_version_are_migrated() {
    each(|world| {
        catalog(world);
        let (agent, id) = register(world, "a", "1.0");
        for _ in 0..2 {
            world.admin().ok("POST", "/pools/p/jobs", job("Plain", "1"));
        }
        assert_eq!(work(&agent, id), [1, 2]);
        for statement in [
            "DROP INDEX submissions_at",
            "DROP INDEX tokens_used",
            "UPDATE jobs SET ended = 1 WHERE ended > 0",
            "UPDATE schema_version SET version = 1",
        ] {
            world.sql(statement).unwrap();
        }
        world.restart();
        let state =
            |job: i64| world.admin().ok("GET", &format!("/pools/p/jobs/{job}"), Value::Null)["state"]["at"].as_u64().unwrap();
        let ended = state(1).min(state(2));
        assert_eq!(world.forget(1, ended, 0, 500), 0, "a job that was there says when it ended");
        assert_eq!(world.forget(1, u64::MAX >> 1, 0, 500), 2);
        world.sql("UPDATE schema_version SET version = 3").unwrap();
        let error = world.open_again().unwrap_err();
        assert!(error.contains("version 3; this program knows 2") || error.contains("another controller"), "{error}");
    });
}
