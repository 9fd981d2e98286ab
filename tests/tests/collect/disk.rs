//! A full disk and a read-only folder: reported, nothing corrupted, and continuing works.

use crate::shared::{Place, fast, files};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use workspace_tests::command::{Ran, binary, collect_feedback, run};

#[test]
fn full_disk_ends_the_run_and_a_larger_one_goes_on() {
    let calm = Place::new(150, 4);
    let service = calm.service(fast());
    assert_eq!(calm.collect(&service, &["--stage", "scores"]).status, Some(0));
    let (expected, needed) = (calm.tables(), service.stats().requests);
    let whole = std::fs::metadata(calm.dataset.feedback_path()).unwrap().len();

    let place = Place::new(150, 4);
    let service = place.service(fast());
    let url = service.url();
    // Maximum file size in blocks of 512 bytes; the signal sent when it is exceeded is ignored, so writes
    // fail as on a full disk.
    for share in [20, 60] {
        let blocks = whole * share / 100 / 512;
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(binary("collect-feedback")).arg("--data").arg(place.path());
        command.args(["--round", "1", "--stage", "scores", "--teacher", "openai", "--base-url", &url]);
        command.args(["--concurrency", "8"]);
        let ran: Ran = command.current_dir(place.path()).output().unwrap().into();
        assert_eq!(ran.status, Some(1), "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("feedback.sqlite") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    }
    let ran = place.collect(&service, &["--stage", "scores"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(place.tables().without_effort(), expected.without_effort());
    let sent = service.stats().requests;
    assert!(sent <= needed + 2 * 8, "{sent} sent, {needed} needed: only those in flight are lost");
}

#[test]
fn folder_that_cannot_be_written_is_said_so() {
    let place = Place::new(4, 2);
    let mode = |mode| std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::set_permissions(place.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    mode(0o555);
    let before = files(place.path());
    let mut command = collect_feedback(place.path(), &["--round", "1"]);
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|about| {
        use std::os::unix::fs::MetadataExt;
        about.uid() == 0
    });
    if is_root {
        command.uid(65_534).gid(65_534); // file modes do not restrict root
    }
    match run(command) {
        Ok(ran) => {
            assert_eq!(ran.status, Some(1), "{}{}", ran.stdout, ran.stderr);
            assert!(ran.stderr.contains("Permission denied"), "{}", ran.stderr);
        }
        Err(error) => println!("skipped: another user cannot start the program: {error}"),
    }
    assert_eq!(before, files(place.path()));
    mode(0o755);
    assert_eq!(place.reference(&["--round", "1"]).status, Some(0));
    assert_eq!(place.tables().scores.len(), 24);
}
