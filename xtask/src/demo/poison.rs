//! The end of the story: the poison is looked at, mended and sent back, with the commands that a person would type.

use super::stage::Stage;
use super::{NOBODY, Outcome, Story};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// Somebody who does exist: whom the report was meant for.
const SOMEBODY: i64 = 1;

/// Lists, shows, mends and replays the one dead letter, then waits until its report is done and mailed.
pub async fn mend(story: &Story, stage: &mut Stage, good: usize, limit: Duration) -> Outcome<()> {
    story.say("The poison is looked at, mended and sent back to where it came from:\n");
    println!("{}", say(stage, &["list"])?);
    let id = stage.poison().await?;
    let shown = say(stage, &["show", &id])?;
    let is_header = |line: &&str| line[9..].starts_with("headers") || line[9..].starts_with("  ");
    shown.lines().filter(|line| !is_header(line)).for_each(|line| println!("{line}"));

    let mut body: Value = serde_json::from_str(&dlq(stage, &["show", &id, "--body-only"])?)?;
    if body["payload"]["user_id"] != NOBODY {
        return Err("the dead letter is not the poison".into());
    }
    body["payload"]["user_id"] = SOMEBODY.into();
    let file = stage.file("mended.json");
    std::fs::write(&file, body.to_string())?;
    println!("         (its user_id is corrected in the file mended.json)");
    println!("{}", say(stage, &["replay", "--id", &id, "--body", &file.display().to_string(), "--only-queue"])?);
    stage.until_done(good + 1, limit).await?;
    stage.until_mailed(good + 1, limit).await
}

/// As [`dlq`], with the command as it would be typed.
fn say(stage: &Stage, arguments: &[&str]) -> Outcome<String> {
    let typed = arguments.iter().map(|argument| argument.rsplit('/').next().unwrap_or(argument)).collect::<Vec<_>>();
    println!("         $ tailwater dlq {} --config application.properties --queue report-service-dlq", typed.join(" "));
    let said = dlq(stage, arguments)?;
    Ok(said.lines().map(|line| format!("         {line}\n")).collect())
}

fn dlq(stage: &Stage, arguments: &[&str]) -> Outcome<String> {
    let mut command = Command::new(testbed::tailwater_binary());
    command.arg("dlq").args(arguments).arg("--config").arg(stage.properties());
    command.args(["--queue", "report-service-dlq", "--log-level", "warn"]);
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
