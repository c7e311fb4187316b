//! Checking logs: what is written, in which form, and where to.
//!
//! Must not let two streams write into one another.

use std::time::Duration;

use super::checker::Checker;
use crate::config::diagnostics::Code;
use crate::config::raw::{RawAudit, RawLog};
use crate::config::tree::Path;
use crate::telemetry::{AuditSettings, LogSettings};

/// Names of the stream that access lines are written to, and of the one the operational log is.
const STANDARD_OUTPUT: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
const STANDARD_ERROR: [&str; 3] = ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"];
/// A request that has waited this long is nobody's any more, and what it was decided on grows old meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl Checker<'_> {
    pub(super) fn log(&mut self, raw: Option<&RawLog>, path: &Path) -> LogSettings {
        let default = RawLog::default();
        let raw = raw.unwrap_or(&default);
        let filter = raw.level.clone().unwrap_or_else(|| "info".to_owned());
        if let Err(problem) = crate::telemetry::check_filter(&filter) {
            let hint = "`error`, `warn`, `info`, `debug`, or a filter such as `warn,portcullis=debug`";
            self.note(Code::InvalidValue, &path.key("level"), problem, Some(hint));
        }
        let json = match raw.format.as_deref() {
            None | Some("json") => true,
            Some("text") => false,
            Some(other) => {
                let message = format!("`{other}` is not a log format");
                self.note(Code::InvalidValue, &path.key("format"), message, Some("`json` or `text`"));
                true
            }
        };
        let format = raw.access_format.as_deref().unwrap_or("json");
        let format = format.parse().unwrap_or_else(|()| {
            let message = format!("`{format}` is not a format of access lines");
            let hint = Some("`json`, `logfmt` or `combined`");
            self.note(Code::InvalidValue, &path.key("access_format"), message, hint);
            Default::default()
        });
        let access = raw.access.unwrap_or(true).then_some(format);
        let audit = raw.audit.as_ref();
        let audit = audit.and_then(|audit| self.audit(audit, access.is_some(), &path.key("audit")));
        LogSettings { filter, json, access, audit }
    }

    fn audit(&mut self, raw: &RawAudit, access: bool, path: &Path) -> Option<AuditSettings> {
        let deadline = self.timeout(raw.deadline.as_deref(), Duration::from_secs(2), &path.key("deadline"));
        let Some(file) = raw.file.as_deref().filter(|file| !file.is_empty()) else {
            let hint = Some("such as `file: /var/log/portcullis/audit.jsonl`");
            self.note(Code::Missing, path, "no file is named for the audit stream", hint);
            return None;
        };
        if deadline > LONGEST_WAIT {
            let message = format!("a request would wait {deadline:?} for its record to be written");
            self.note(Code::InvalidValue, &path.key("deadline"), message, Some("at most `10s`"));
        }
        let is_output = STANDARD_OUTPUT.contains(&file);
        let is_error = STANDARD_ERROR.contains(&file);
        let sync = raw.sync.unwrap_or(false);
        if is_error || is_output && access {
            let lines = if is_error { "the operational log" } else { "access lines" };
            let message =
                format!("`{file}` is where {lines} go, and two streams would cut each other's lines");
            let hint = if is_error {
                "name a file"
            } else {
                "name a file, or turn the access lines off with `log.access: false`"
            };
            self.note(Code::Conflict, &path.key("file"), message, Some(hint));
        } else if is_output && sync {
            let hint = Some("leave `sync` out, or name a file");
            self.note(Code::Conflict, &path.key("sync"), "standard output is no file on a disk", hint);
        }
        let file = (!is_output).then(|| self.file(file));
        Some(AuditSettings { file, sync, deadline })
    }
}
