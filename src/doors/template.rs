//! Templates that take the place of the built-in page, tried before anybody is refused.
//!
//! Must not let one pass that could fail on a refusal.

use minijinja::{Environment, context};

use super::refusal::TEMPLATE;

/// What a template may use.
const VARIABLES: [&str; 9] =
    ["status", "reason", "title", "heading", "message", "request_id", "unmet", "sign_in", "sign_in_label"];

/// Whether a template makes a page of everything a refusal may hold; what is wrong with it if not.
pub fn try_page(template: &str) -> Result<(), String> {
    let tell = |error: minijinja::Error| {
        let line = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
        format!("{}{line}", error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
    };
    let mut templates = Environment::new();
    templates.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    templates.add_template(TEMPLATE, template).map_err(tell)?;
    let template = templates.get_template(TEMPLATE).map_err(tell)?;
    let mut unknown: Vec<String> = template.undeclared_variables(false).into_iter().collect();
    let functions: Vec<String> = templates.globals().map(|(name, _)| name.to_owned()).collect();
    unknown.retain(|name| !VARIABLES.contains(&name.as_str()) && !functions.contains(name));
    unknown.sort_unstable();
    if !unknown.is_empty() {
        return Err(format!(
            "there is no `{}`; there are `{}`",
            unknown.join("`, `"),
            VARIABLES.join("`, `")
        ));
    }
    for (unmet, sign_in) in
        [(Vec::new(), None), (vec!["role `x`".to_owned()], Some("https://login.example.com/"))]
    {
        let values = context! {
            status => 403, reason => "role_missing", title => "a role is missing", heading => "x", message => "x",
            request_id => "x", unmet => unmet, sign_in => sign_in, sign_in_label => "Sign in",
        };
        template.render(values).map_err(tell)?;
    }
    Ok(())
}
