//! Each sentence of the routing rules, one test.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::{Access, ForwardedCredentials, Freshness, Requirement, RouteMatch};

fn route(name: &str, host: &str, path: &str, methods: &[Method]) -> Route {
    let host = if host.is_empty() { HostPattern::Unnamed } else { HostPattern::parse(host).unwrap() };
    Route {
        name: Arc::from(name),
        matches: RouteMatch {
            hosts: vec![host],
            paths: vec![PathPattern::parse(path).unwrap()],
            methods: methods.to_vec(),
        },
        access: Access::Public,
        shadow: None,
        audience: None,
        freshness: Freshness {
            fresh_for: Duration::ZERO,
            max_staleness: Duration::ZERO,
            stale_if_error: Duration::ZERO,
        },
        upstream: Arc::from("app"),
        letter_case: LetterCase::Refuse,
        keep_encoded_slash: false,
        keep_path_parameters: false,
        websocket: None,
        forwards: ForwardedCredentials::default(),
    }
}

fn find(routes: &[(&str, &str, &str)], host: &str, path: &str) -> Result<String, RouteMiss> {
    let table = RouteTable::new(routes.iter().map(|(name, host, path)| route(name, host, path, &[])));
    find_in(&table, host, path, &Method::GET)
}

fn find_in(table: &RouteTable, host: &str, path: &str, method: &Method) -> Result<String, RouteMiss> {
    let host = HostName::parse(host).unwrap();
    table.find(&host, CanonicalPath::parse(path).unwrap().text(), method).map(|route| route.name.to_string())
}

#[test]
fn an_exact_host_outranks_a_wildcard_and_a_wildcard_outranks_none() {
    let routes = [("none", "", "/a"), ("wild", "*.example.com", "/**"), ("exact", "app.example.com", "/**")];
    assert_eq!(find(&routes, "app.example.com", "/a").unwrap(), "exact");
    assert_eq!(find(&routes, "other.example.com", "/a").unwrap(), "wild");
}

#[test]
fn a_longer_host_suffix_outranks_a_shorter_one() {
    let routes = [("short", "*.com", "/**"), ("long", "*.example.com", "/**")];
    assert_eq!(find(&routes, "a.example.com", "/").unwrap(), "long");
}

#[test]
fn an_exact_path_comes_first_and_a_glob_before_a_prefix_of_the_same_beginning() {
    let routes = [("prefix", "", "/x/**"), ("glob", "", "/x/*"), ("exact", "", "/x/y")];
    assert_eq!(find(&routes, "a", "/x/y").unwrap(), "exact");
    assert_eq!(find(&routes, "a", "/x/z").unwrap(), "glob");
    assert_eq!(find(&routes, "a", "/x/z/w").unwrap(), "prefix");
}

#[test]
fn what_begins_with_more_literal_comes_first_and_the_catch_all_last() {
    let routes = [
        ("all", "", "/**"),
        ("api", "", "/v1/**"),
        ("anywhere", "", "/*/admin/**"),
        ("admin", "", "/v1/admin/**"),
        ("org", "", "/v1/orgs/{org}/**"),
        ("user", "", "/v1/orgs/{org}/users/{user}"),
    ];
    for (path, route) in [
        ("/v1/x", "api"),
        ("/v1/admin/x", "admin"),
        ("/v2/admin/x", "anywhere"),
        ("/v1/orgs", "api"),
        ("/v1/orgs/acme", "org"),
        ("/v1/orgs/acme/users/7", "user"),
        ("/other", "all"),
    ] {
        assert_eq!(find(&routes, "a", path).unwrap(), route, "{path}");
    }
}

#[test]
fn the_longer_literal_comes_first() {
    let routes = [("all", "", "/**"), ("long", "", "/a/b/**"), ("short", "", "/a/**")];
    assert_eq!(find(&routes, "h", "/a/b/c").unwrap(), "long");
    assert_eq!(find(&routes, "h", "/a/c").unwrap(), "short");
    assert_eq!(find(&routes, "h", "/c").unwrap(), "all");
}

#[test]
fn equal_rank_is_decided_as_written() {
    let routes = [("first", "", "/a/*"), ("second", "", "/a/{x}")];
    assert_eq!(find(&routes, "h", "/a/b").unwrap(), "first");
}

#[test]
fn a_segment_prefix_never_covers_a_longer_name() {
    let routes = [("x", "", "/x/**")];
    for path in ["/x", "/x/", "/x/y"] {
        assert_eq!(find(&routes, "h", path).unwrap(), "x");
    }
    assert_eq!(find(&routes, "h", "/xy"), Err(RouteMiss::NotFound));
}

#[test]
fn a_refused_method_is_never_given_to_a_weaker_route() {
    let table = RouteTable::new([
        route("weak", "", "/**", &[]),
        route("read", "", "/admin", &[Method::GET]),
        route("write", "", "/admin", &[Method::POST]),
    ]);
    assert_eq!(find_in(&table, "h", "/admin", &Method::GET).unwrap(), "read");
    assert_eq!(find_in(&table, "h", "/admin", &Method::POST).unwrap(), "write");
    assert_eq!(
        find_in(&table, "h", "/admin", &Method::DELETE),
        Err(RouteMiss::MethodNotAllowed { route: "read".into(), allowed: vec![Method::GET, Method::POST] })
    );
}

#[test]
fn head_follows_get() {
    let table = RouteTable::new([route("read", "", "/a", &[Method::GET])]);
    assert_eq!(find_in(&table, "h", "/a", &Method::HEAD).unwrap(), "read");
}

#[test]
fn a_host_no_route_names_is_misdirected() {
    let routes = [("named", "app.example.com", "/**"), ("free", "", "/healthz")];
    assert_eq!(find(&routes, "other.example.com", "/healthz"), Err(RouteMiss::Misdirected));
    assert_eq!(find(&routes, "app.example.com", "/healthz").unwrap(), "named");
}

#[test]
fn a_star_host_opens_the_table_to_every_host() {
    let routes = [("named", "app.example.com", "/**"), ("star", "*", "/healthz")];
    assert_eq!(find(&routes, "other.example.com", "/healthz").unwrap(), "star");
    assert_eq!(find(&routes, "other.example.com", "/x"), Err(RouteMiss::NotFound));
}

#[test]
fn case_is_ignored_for_an_origin_that_ignores_it() {
    let mut admin = route("admin", "", "/admin/**", &[]);
    admin.letter_case = LetterCase::Insensitive;
    let mut rest = route("rest", "", "/**", &[]);
    rest.letter_case = LetterCase::Insensitive;
    let table = RouteTable::new([admin, rest]);
    assert_eq!(find_in(&table, "h", "/ADMIN/users", &Method::GET).unwrap(), "admin");
}

#[test]
fn two_routes_of_one_place_share_it_though_only_one_minds_case() {
    let mut write = route("write", "", "/admin", &[Method::POST]);
    write.letter_case = LetterCase::Insensitive;
    let table = RouteTable::new([route("read", "", "/admin", &[Method::GET]), write]);
    assert_eq!(find_in(&table, "h", "/admin", &Method::POST).unwrap(), "write");
    assert_eq!(find_in(&table, "h", "/admin", &Method::GET).unwrap(), "read");
}

/// The stricter of two routes of one pattern answers for the spellings that only it covers.
#[test]
fn a_route_never_answers_for_a_spelling_it_does_not_cover() {
    let open = route("open", "", "/files/public", &[]);
    let mut closed = route("closed", "", "/files/public", &[]);
    closed.letter_case = LetterCase::Insensitive;
    let table = RouteTable::new([open, closed]);
    for (path, expected) in
        [("/files/public", "open"), ("/files/PUBLIC", "closed"), ("/FILES/public", "closed")]
    {
        assert_eq!(find_in(&table, "h", path, &Method::GET).unwrap(), expected, "{path}");
    }
}

fn guarded(name: &str, path: &str) -> Route {
    Route { access: Access::Require(Requirement::Authenticated), ..route(name, "", path, &[]) }
}

#[test]
fn a_glob_that_names_the_other_spelling_keeps_it() {
    for (bare, slashed) in [("/a/*", "/a/*/"), ("/a/{org}", "/a/*/"), ("/*/b", "/{any}/b/"), ("/x*", "/x*/")]
    {
        for order in [[("bare", bare), ("slashed", slashed)], [("slashed", slashed), ("bare", bare)]] {
            let table = RouteTable::new(order.map(|(name, path)| guarded(name, path)));
            let bare_path = bare.replace("{org}", "q").replace('*', "q");
            let find = |path: &str| find_in(&table, "h", path, &Method::GET).unwrap();
            assert_eq!(find(&bare_path), "bare", "{order:?}");
            assert_eq!(find(&format!("{bare_path}/")), "slashed", "{order:?}");
        }
    }
}

#[test]
fn the_other_spelling_of_a_deep_glob_does_not_silence_the_prefix_of_that_spelling() {
    let deep = [guarded("glob", "/admin/**/"), guarded("prefix", "/admin/**"), guarded("all", "/**")];
    let table = RouteTable::new(deep);
    for (path, expected) in
        [("/admin/x", "prefix"), ("/admin/x/", "glob"), ("/admin", "prefix"), ("/other/", "all")]
    {
        assert_eq!(find_in(&table, "h", path, &Method::GET).unwrap(), expected, "{path}");
    }
    let alone = RouteTable::new([guarded("glob", "/admin/**/"), guarded("all", "/**")]);
    assert_eq!(find_in(&alone, "h", "/admin/x", &Method::GET).unwrap(), "glob");
    let root = RouteTable::new([guarded("slashed", "/**/"), guarded("all", "/**")]);
    assert_eq!(find_in(&root, "h", "/x", &Method::GET).unwrap(), "all");
    assert_eq!(find_in(&root, "h", "/x/", &Method::GET).unwrap(), "slashed");
}

#[test]
fn the_other_spelling_named_in_another_case_is_named_where_the_origin_ignores_case() {
    let insensitive = |name, path| Route { letter_case: LetterCase::Insensitive, ..guarded(name, path) };
    for order in [[("bare", "/A/*"), ("slashed", "/a/*/")], [("slashed", "/A/*/"), ("bare", "/a/*")]] {
        let table = RouteTable::new(order.map(|(name, path)| insensitive(name, path)));
        assert_eq!(find_in(&table, "h", "/a/x", &Method::GET).unwrap(), "bare", "{order:?}");
        assert_eq!(find_in(&table, "h", "/A/x/", &Method::GET).unwrap(), "slashed", "{order:?}");
    }
    // Beside a route whose origin minds case.
    let table = RouteTable::new([insensitive("slashed", "/A/"), guarded("bare", "/a")]);
    assert_eq!(find_in(&table, "h", "/a", &Method::GET).unwrap(), "bare");
    assert_eq!(find_in(&table, "h", "/a/", &Method::GET).unwrap(), "slashed");
}

#[test]
fn a_last_slash_is_ignored_at_the_patterns_own_rank() {
    let table = RouteTable::new([
        guarded("all", "/**"),
        guarded("exact", "/exact"),
        guarded("folder", "/folder/"),
        guarded("glob", "/a/*/c"),
        guarded("named", "/named"),
        guarded("named-slash", "/named/"),
        guarded("below", "/wide/**"),
        guarded("wide", "/wide"),
        route("public", "", "/public", &[]),
        route("public-glob", "", "/open/*", &[]),
    ]);
    for (path, expected) in [
        ("/exact", "exact"),
        ("/exact/", "exact"),
        ("/exact/x", "all"),
        ("/folder/", "folder"),
        ("/folder", "folder"),
        ("/a/b/c", "glob"),
        ("/a/b/c/", "glob"),
        ("/named", "named"),
        ("/named/", "named-slash"),
        ("/wide", "wide"),
        // The prefix names this spelling.
        ("/wide/", "below"),
        ("/wide/x", "below"),
        // A public route takes the spelling that it names alone.
        ("/public", "public"),
        ("/public/", "all"),
        ("/open/x", "public-glob"),
        ("/open/x/", "all"),
        ("/", "all"),
    ] {
        assert_eq!(find_in(&table, "h", path, &Method::GET).unwrap(), expected, "{path}");
    }
}

#[test]
fn ignoring_case_one_route_answers_or_it_is_told() {
    let table = RouteTable::new([
        guarded("all", "/**"),
        guarded("admin", "/admin/**"),
        route("read", "", "/things", &[Method::GET]),
        route("write", "", "/things", &[Method::POST]),
        guarded("upper", "/Both"),
        guarded("lower", "/both"),
        guarded("glob", "/x/*.PNG"),
    ]);
    let answers = |path: &str, method: &Method| {
        let host = HostName::parse("h").unwrap();
        let path = CanonicalPath::parse(path).unwrap();
        let route = table.find(&host, path.text(), method).unwrap();
        table.answers_ignoring_case(route, &host, path.text(), method)
    };
    for (path, alone) in [
        ("/admin/users", true),
        ("/ADMIN/users", false),
        ("/Admin", false),
        ("/ADMIN/", false),
        ("/admin/USERS", true),
        ("/other", true),
        ("/OTHER", true),
        ("/things", true),
        ("/Things", false),
        // Which of the two an origin means that ignores case cannot be told.
        ("/both", false),
        ("/Both", false),
        ("/BOTH", false),
        ("/x/a.PNG", true),
        ("/x/a.png", false),
    ] {
        assert_eq!(answers(path, &Method::GET), alone, "{path}");
    }
    assert!(answers("/things", &Method::POST));
}

fn any_route() -> impl Strategy<Value = (String, String, bool, Vec<Method>)> {
    let host = prop_oneof!["", r"\*", r"[ab]\.x", r"\*\.x", r"\*\.[ab]\.x"];
    let path = prop_oneof![r"(/[ab]){1,3}", r"(/[ab]){0,2}/\*\*", r"(/[ab*]){1,3}(/\*\*)?", r"/\*\*/[ab]"];
    let methods = prop_oneof![
        Just(Vec::new()),
        Just(vec![Method::GET]),
        Just(vec![Method::POST]),
        Just(vec![Method::GET, Method::PUT]),
    ];
    (host, path, any::<bool>(), methods)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_route_that_is_found_is_the_first_of_all_that_match(
        routes in proptest::collection::vec(any_route(), 0..12), host in r"([ab]\.){0,2}[xy]", path in "(/[abAB]){1,4}"
    ) {
        let routes = routes.iter().enumerate().map(|(number, (host, path, ignores_case, methods))| Route {
            letter_case: if *ignores_case { LetterCase::Insensitive } else { LetterCase::Refuse },
            ..route(&number.to_string(), host, path, methods)
        });
        let table = RouteTable::new(routes);
        let host = HostName::parse(&host).unwrap();
        let path = CanonicalPath::parse(&path).unwrap();
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            let found = table.find(&host, path.text(), &method);
            if matches!(found, Err(RouteMiss::Misdirected)) {
                prop_assert!(table.iter().all(|(pattern, ..)| !pattern.is_named() || !pattern.matches(&host)));
                continue;
            }
            let stands = |wanted| {
                table.standings(&host, &path, &method).find_map(|(standing, _, _, route)| {
                    (standing == wanted).then(|| route.name.to_string())
                })
            };
            let first = match found {
                Ok(route) => (Some(route.name.to_string()), None),
                Err(RouteMiss::MethodNotAllowed { route, .. }) => (None, Some(route.to_string())),
                Err(_) => (None, None),
            };
            let refused = if first.0.is_some() { None } else { stands(Standing::OtherMethod) };
            prop_assert_eq!(first, (stands(Standing::Answers), refused));
        }
    }

    #[test]
    fn routes_of_one_rank_are_tried_as_written(
        paths in proptest::collection::vec(prop_oneof![Just("/a/*/c"), Just("/a/{x}/c"), Just("/a/{y}/c")], 1..8)
    ) {
        let routes: Vec<_> =
            paths.iter().enumerate().map(|(number, path)| route(&number.to_string(), "", path, &[])).collect();
        let table = RouteTable::new(routes);
        let tried: Vec<String> = table.iter().map(|(_, _, route)| route.name.to_string()).collect();
        let rank = |name: &String| PathPattern::parse(paths[name.parse::<usize>().unwrap()]).unwrap().rank();
        for pair in tried.windows(2) {
            let as_written = pair[0].parse::<usize>().unwrap() < pair[1].parse::<usize>().unwrap();
            prop_assert!(rank(&pair[0]) < rank(&pair[1]) || as_written);
        }
    }
}
