//! What a server tells of itself while it is loaded: the numbers of `mntr`, and those of a /metrics page. Refuses to
//! interpret them: names and values stand in the report as the server gives them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Names and values.
pub type Figures = BTreeMap<String, f64>;

fn ask(server: SocketAddr, question: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// What a server answers to a four-letter word; None if it does not, or does not allow it.
pub fn four_letters(server: SocketAddr, word: &str) -> Option<String> {
    ask(server, word.as_bytes()).filter(|answer| !answer.contains("not in the whitelist") && !answer.is_empty())
}

/// The numbers of `mntr`; none if the server does not say.
pub fn of_mntr(server: SocketAddr) -> Figures {
    parse(&four_letters(server, "mntr").unwrap_or_default())
}

/// The numbers of a /metrics page, labels included in their names; none if there is no such page.
pub fn of_page(address: SocketAddr) -> Figures {
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = ask(address, request.as_bytes()).unwrap_or_default();
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => parse(body),
        _ => Figures::new(),
    }
}

/// A name and a number per line, with blanks or a tab between them. What is no number is left out.
fn parse(text: &str) -> Figures {
    let line = |line: &str| {
        let (name, value) = line.trim().rsplit_once([' ', '\t'])?;
        let value: f64 = value.parse().ok()?;
        (!name.starts_with('#') && value.is_finite()).then(|| (name.trim().to_string(), value))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_and_words_left_out() {
        let text = "zk_version\t3.9.3-c2\nzk_znode_count\t5\nzk_avg_latency\t0.25\n# HELP x y\nx{quantile=\"0.5\",} NaN\ny{a=\"b c\"} 7\n";
        let names: Vec<_> = parse(text).into_iter().collect();
        assert_eq!(names, [("y{a=\"b c\"}".to_string(), 7.0), ("zk_avg_latency".to_string(), 0.25), ("zk_znode_count".to_string(), 5.0)]);
    }
}
