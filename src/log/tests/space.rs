//! A full disk: reads and deletes go on, growth is refused, and everything recovers by itself.

use super::world::{Model, Server, start};
use crate::sim::disk::{Fault, SimDisk};

#[test]
fn no_room_from_any_operation_on() {
    for at in 1..400 {
        let (disk, mut model) = (SimDisk::new(at), Model::default());
        disk.strike(at, Fault::Full);
        let Ok(mut server) = Server::run(&disk, &mut model, 1, 90) else {
            assert!(model.history.is_empty(), "only formatting may fail for want of room");
            disk.free_space();
            Server::run(&disk, &mut model, 1, 90).unwrap();
            continue;
        };
        let stuck = !server.journal.ready();
        assert!(!stuck || server.journal.space_low());
        disk.free_space();
        server.tick(&mut model, 1000).unwrap();
        for _ in 0..12 {
            server.background(&mut model).unwrap();
            server.snapshot(&mut model).unwrap();
        }
        assert!(server.journal.ready() && !server.journal.space_low(), "operation {at}");
        let before = model.acked;
        server.append_random(&mut model).unwrap();
        assert_eq!(model.acked, before + 1);
        disk.power_on(at);
        let found = start(&disk, &mut model).unwrap();
        model.check(&disk, &found);
    }
}

#[test]
fn space_is_low_before_it_is_gone() {
    let (disk, mut model) = (SimDisk::new(1), Model::default());
    let mut server = Server::run(&disk, &mut model, 1, 0).unwrap();
    disk.strike(disk.ops() + 1, Fault::Full);
    server.tick(&mut model, 0).unwrap();
    let mut appended_while_low = 0;
    for _ in 0..200 {
        server.tick(&mut model, 1000).unwrap();
        server.background(&mut model).unwrap();
        let before = model.acked;
        server.append_random(&mut model).unwrap();
        appended_while_low += u32::from(server.journal.space_low() && model.acked > before);
    }
    assert!(!server.journal.ready() && server.journal.space_low());
    assert!(appended_while_low > 3, "deletes had room: {appended_while_low}");
}
