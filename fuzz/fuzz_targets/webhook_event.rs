//! The body of a webhook delivery. Must not do more than call the parser.

#![no_main]

use portcullis::identity::ProjectId;
use portcullis::stytch::read_webhook_event;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    if let Ok(project) = ProjectId::parse("project-test-1") {
        let _event = read_webhook_event(body, &project);
    }
});
