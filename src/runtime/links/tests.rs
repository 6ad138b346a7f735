//! Links over real sockets: servers find each other and find each other again, and nobody else gets in or in the way.
//! Refuses to wait longer than a test may take.

use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;

const CLUSTER: u128 = 77;
const PATIENCE: Duration = Duration::from_secs(10);

struct Server {
    links: Links,
    /// Links as they come.
    come: mpsc::Receiver<Link>,
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.as_bytes()))
}

fn config(server: u16, peers: &[(u16, u16)], secret: Option<Secret>) -> LinksConfig {
    let address = |(server, port): &(u16, u16)| PeerAddress { server: *server, host: "127.0.0.1".into(), port: *port };
    LinksConfig {
        server,
        incarnation: 1000 + u128::from(server),
        listen: "127.0.0.1:0".parse().unwrap(),
        peers: peers.iter().map(address).collect(),
        secret,
        silence_ms: 1000,
    }
}

fn start(config: LinksConfig) -> Server {
    let (sender, come) = mpsc::channel();
    let identity = Arc::new(Identity::new(CLUSTER, true));
    let links = Links::start(config, identity, move |link| drop(sender.send(link))).unwrap();
    Server { links, come }
}

impl Server {
    fn port(&self) -> u16 {
        self.links.address().port()
    }

    fn link(&self) -> Link {
        self.come.recv_timeout(PATIENCE).expect("a link comes about")
    }

    fn no_link(&self) {
        assert!(self.come.recv_timeout(Duration::from_millis(300)).is_err(), "no link comes about");
    }

    fn stranger(&self) -> TcpStream {
        let stream = TcpStream::connect(self.links.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

/// Whether both ends can verify what the other has sealed, and the socket carries it.
fn belong_together(a: &mut Link, b: &mut Link) -> bool {
    let mac = a.keys.send.seal(&[b"hello"]);
    let (mut from, mut to) = (TcpStream::from(a.socket.try_clone().unwrap()), TcpStream::from(b.socket.try_clone().unwrap()));
    from.write_all(&mac).unwrap();
    let mut heard = [0; crate::peer::MAC_BYTES];
    to.read_exact(&mut heard).unwrap();
    b.keys.receive.verify(&[b"hello"], &heard)
}

/// What a stranger reads until the end of the connection.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn servers_find_each_other_and_again_when_the_link_is_lost() {
    for shared in [secret("a secret of the ensemble"), None] {
        let one = start(config(1, &[(2, 1)], shared.clone()));
        let two = start(config(2, &[(1, one.port())], shared));
        for _ in 0..2 {
            let (mut at_one, mut at_two) = (one.link(), two.link());
            assert_eq!((at_one.peer, at_one.incarnation, at_one.cluster), (2, 1002, CLUSTER));
            assert_eq!((at_two.peer, at_two.incarnation), (1, 1001));
            assert!(belong_together(&mut at_one, &mut at_two) && belong_together(&mut at_two, &mut at_one));
            drop((at_one, at_two));
            one.links.lost(2);
            two.links.lost(1);
        }
    }
}

#[test]
fn a_server_that_starts_later_and_one_that_starts_again_are_found() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let two = start(config(2, &[(1, port)], None));
    two.no_link();
    let later = || {
        let mut config = config(1, &[(2, 1)], None);
        config.listen.set_port(port);
        config
    };
    let one = start(later());
    drop((one.link(), two.link()));
    drop(one);
    two.links.lost(1);
    two.no_link();
    let again = start(later());
    drop((again.link(), two.link()));
}

#[test]
fn who_does_not_belong_is_refused_and_who_does_gets_in_all_the_same() {
    let one = start(config(1, &[(2, 1), (3, 1)], secret("the right one, long enough")));
    let wrong = start(config(2, &[(1, one.port())], secret("the wrong one, long enough")));
    let none = start(config(2, &[(1, one.port())], None));
    let unknown = start(config(9, &[(1, one.port())], secret("the right one, long enough")));
    let mut other = config(3, &[(1, one.port())], secret("the right one, long enough"));
    other.incarnation = 4;
    let (sender, come) = mpsc::channel();
    let links = Links::start(other, Arc::new(Identity::new(CLUSTER + 1, true)), move |link| drop(sender.send(link))).unwrap();
    let stray = Server { links, come };
    for server in [&wrong, &none, &unknown, &stray, &one] {
        server.no_link();
    }
    let right = start(config(3, &[(1, one.port())], secret("the right one, long enough")));
    assert!(belong_together(&mut one.link(), &mut right.link()));
}

#[test]
fn an_identity_that_was_taken_on_later_counts() {
    let identity = Arc::new(Identity::new(0, false));
    let (sender, come) = mpsc::channel();
    let links = Links::start(config(1, &[(2, 1)], None), identity.clone(), move |link| drop(sender.send(link))).unwrap();
    let one = Server { links, come };
    let two = start(config(2, &[(1, one.port())], None));
    drop((one.link(), two.link()));
    identity.set(CLUSTER + 1, true);
    two.links.lost(1);
    two.no_link();
    identity.set(CLUSTER, true);
    drop((one.link(), two.link()));
}

#[test]
fn garbage_is_cut_off_and_told_nothing() {
    let one = start(config(1, &[(2, 1)], secret("a secret of the ensemble")));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"ruok"] {
        let mut stream = one.stranger();
        // It may be cut off while it talks.
        let _ = stream.write_all(garbage);
        assert!(rest(stream).is_empty());
    }
    let two = start(config(2, &[(1, one.port())], secret("a secret of the ensemble")));
    drop((one.link(), two.link()));
}

#[test]
fn slow_strangers_keep_nobody_out_and_are_let_go_in_time() {
    let one = start(config(1, &[(2, 1)], secret("a secret of the ensemble")));
    let slow: Vec<TcpStream> = (0..200).map(|_| one.stranger()).collect();
    let started = Instant::now();
    let two = start(config(2, &[(1, one.port())], secret("a secret of the ensemble")));
    drop((one.link(), two.link()));
    assert!(started.elapsed() < HANDSHAKE_TIMEOUT, "nobody waits for them to time out");
    let drip = one.stranger();
    let mut dripping = drip.try_clone().unwrap();
    let dripper = thread::spawn(move || {
        while dripping.write_all(b"F").is_ok() && started.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(50));
        }
    });
    let started = Instant::now();
    slow.into_iter().for_each(|stream| assert!(rest(stream).is_empty()));
    assert!(rest(drip).is_empty());
    assert!(started.elapsed() < HANDSHAKE_TIMEOUT * 2, "a drop now and then buys no time");
    dripper.join().unwrap();
}

#[test]
fn without_a_secret_only_this_machine_is_talked_to() {
    let mut open = config(1, &[], None);
    open.listen = "0.0.0.0:0".parse().unwrap();
    let refused = Links::start(open, Arc::new(Identity::new(0, false)), |_| {}).err().unwrap().to_string();
    assert!(refused.contains("peerSecretFile"), "{refused}");
    let mut taken = config(1, &[], None);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    taken.listen = listener.local_addr().unwrap();
    let refused = Links::start(taken, Arc::new(Identity::new(0, false)), |_| {}).err().unwrap().to_string();
    assert!(refused.contains("is taken"), "{refused}");
}
