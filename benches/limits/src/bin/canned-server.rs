//! `canned-server`: answers every request of the ZooKeeper protocol with a frame of the right size and does nothing else.
//! What a load generator costs shows against it, and what a server's sockets cost at least. Refuses to keep anything.

use clap::Parser;
use falconer_limits::answers::Answers;
use falconer_limits::serving::Serving;
use std::io;
use std::net::TcpListener;

#[derive(Parser)]
#[command(about, version)]
struct Options {
    /// The port on 127.0.0.1; 0 takes one that is free.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Bytes of data in the answer to a get; the load generator's --size.
    #[arg(long, default_value_t = 100)]
    size: u32,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    falconer::runtime::raise_open_files();
    let listener = TcpListener::bind(("127.0.0.1", options.port))?;
    eprintln!("canned-server: answering on {}", listener.local_addr()?);
    let serve = |thread: u8| Serving::new(Answers::new(options.size, i64::from(thread) << 48))?.run(&listener);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..options.threads).map(|thread| scope.spawn(move || serve(thread))).collect();
        let first = serve(0);
        threads.into_iter().map(|thread| thread.join().expect("a thread does not panic")).fold(first, Result::and)
    })
}
