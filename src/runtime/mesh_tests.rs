//! Tests of the rings between cores: order, wrapping, fullness, two threads at full speed, and every interleaving of a few
//! operations under loom. Refuses to time anything.

use super::*;

fn record(payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(not(feature = "loom"))]
mod plain {
    use super::*;
    use std::thread;

    #[test]
    fn records_come_out_in_order_across_the_wrap() {
        let (mut producer, mut consumer) = byte_ring(64);
        for i in 0..1000u32 {
            let payload = vec![i as u8; (i % 13) as usize];
            assert_eq!(producer.push_all(&mut record(&payload)), 1);
            assert_eq!(consumer.drain(10, |bytes| bytes == payload), 1);
        }
        assert!(!consumer.has_news());
    }

    #[test]
    fn what_does_not_fit_stays_with_the_writer() {
        let (mut producer, mut consumer) = byte_ring(64);
        let mut records: Vec<u8> = (0..10u8).flat_map(|i| record(&[i; 8])).collect();
        assert_eq!(producer.push_all(&mut records), 4);
        assert_eq!(records.len(), 6 * 12);
        assert_eq!(producer.push_all(&mut records), 0);
        let mut seen = Vec::new();
        while consumer.drain(3, |bytes| {
            seen.push(bytes[0]);
            true
        }) > 0
        {
            producer.push_all(&mut records);
        }
        assert_eq!(seen, (0..10).collect::<Vec<u8>>());
    }

    #[test]
    fn a_large_record_keeps_its_place() {
        let (mut producer, mut consumer) = byte_ring(64);
        let mut records = [record(b"one"), record(&[7; 5000]), record(b"two")].concat();
        assert_eq!(producer.push_all(&mut records), 3);
        let mut seen = Vec::new();
        consumer.drain(10, |bytes| {
            seen.push(bytes.to_vec());
            true
        });
        assert_eq!(seen, [b"one".to_vec(), vec![7; 5000], b"two".to_vec()]);
    }

    #[test]
    fn a_reader_that_stops_has_read_that_record() {
        let (mut producer, mut consumer) = byte_ring(64);
        producer.push_all(&mut [record(b"a"), record(b"b")].concat());
        assert_eq!(consumer.drain(10, |_| false), 1);
        assert_eq!(consumer.drain(10, |bytes| bytes == b"b"), 1);
    }

    #[test]
    fn two_threads_exchange_a_million_records() {
        const COUNT: u32 = 1_000_000;
        let (mut producer, mut consumer) = byte_ring(4096);
        let writer = thread::spawn(move || {
            let (mut records, mut next) = (Vec::new(), 0);
            while next < COUNT || !records.is_empty() {
                while next < COUNT && records.len() < 2000 {
                    let mut payload = vec![next as u8; (next % 61) as usize + 4];
                    payload[..4].copy_from_slice(&next.to_le_bytes());
                    records.extend_from_slice(&record(&payload));
                    next += 1;
                }
                if producer.push_all(&mut records) == 0 {
                    thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            let drained = consumer.drain(100, |bytes| {
                assert_eq!(bytes.len(), (expected % 61) as usize + 4);
                assert_eq!(bytes[..4], expected.to_le_bytes());
                assert!(bytes[4..].iter().all(|b| *b == expected as u8));
                expected += 1;
                true
            });
            if drained == 0 {
                thread::yield_now();
            }
        }
        writer.join().unwrap();
    }

    #[test]
    fn two_threads_exchange_values_and_nobody_sleeps_for_ever() {
        const COUNT: u64 = 200_000;
        let (mut producer, mut consumer) = slot_ring::<u64>(64);
        let sleep = Arc::new(Sleep::default());
        let writers_sleep = sleep.clone();
        let reader = thread::spawn(move || {
            let mut expected = 0;
            while expected < COUNT {
                sleep.announce();
                if !consumer.has_news() {
                    thread::park();
                }
                sleep.awake();
                consumer.drain(|value| {
                    assert_eq!(value, expected);
                    expected += 1;
                });
            }
        });
        for i in 0..COUNT {
            while producer.push(i).is_err() {
                thread::yield_now();
            }
            if i % 7 == 0 || i + 1 == COUNT || i % 64 > 55 {
                producer.publish();
                if writers_sleep.claim() {
                    reader.thread().unpark();
                }
            }
        }
        reader.join().unwrap();
    }
}

#[cfg(feature = "loom")]
mod model {
    use super::*;
    use loom::thread;

    #[test]
    fn loom_byte_ring() {
        loom::model(|| {
            let (mut producer, mut consumer) = byte_ring(64);
            let writer = thread::spawn(move || {
                let mut records = [record(&[1; 12]), record(&[2; 12]), record(&[3; 12])].concat();
                producer.push_all(&mut records);
                let mut more = [record(&[4; 12]), record(&[5; 4])].concat();
                producer.push_all(&mut more)
            });
            let mut expected = 1;
            let mut check = |bytes: &[u8]| {
                assert!(bytes.iter().all(|b| *b == expected));
                expected += 1;
                true
            };
            consumer.drain(10, &mut check);
            consumer.drain(10, &mut check);
            let pushed = writer.join().unwrap();
            consumer.drain(10, &mut check);
            assert_eq!(expected as usize, 4 + pushed);
        });
    }

    #[test]
    fn loom_slot_ring() {
        loom::model(|| {
            let (mut producer, mut consumer) = slot_ring::<u64>(2);
            let writer = thread::spawn(move || {
                let mut pushed = 0;
                for value in 0..3 {
                    pushed += u64::from(producer.push(value).is_ok());
                    producer.publish();
                }
                pushed
            });
            let mut seen = Vec::new();
            consumer.drain(|value| seen.push(value));
            consumer.drain(|value| seen.push(value));
            let pushed = writer.join().unwrap();
            consumer.drain(|value| seen.push(value));
            assert_eq!(seen.len() as u64, pushed);
            assert!(seen.is_sorted());
        });
    }

    /// The reader sleeps only when the writer is going to wake it: loom reports a deadlock otherwise.
    #[test]
    fn loom_ring_wake() {
        loom::model(|| {
            let (mut producer, mut consumer) = slot_ring::<u64>(2);
            let sleep = loom::sync::Arc::new(Sleep::default());
            let bell = loom::sync::Arc::new((loom::sync::Mutex::new(false), loom::sync::Condvar::new()));
            let (writers_sleep, writers_bell) = (sleep.clone(), bell.clone());
            let writer = thread::spawn(move || {
                for value in 0..2 {
                    producer.push(value).unwrap();
                    producer.publish();
                    if writers_sleep.claim() {
                        *writers_bell.0.lock().unwrap() = true;
                        writers_bell.1.notify_one();
                    }
                }
            });
            let mut seen = 0;
            while seen < 2 {
                sleep.announce();
                if consumer.has_news() {
                    sleep.awake();
                } else {
                    let mut rung = bell.0.lock().unwrap();
                    while !*rung {
                        rung = bell.1.wait(rung).unwrap();
                    }
                    *rung = false;
                }
                consumer.drain(|_| seen += 1);
            }
            writer.join().unwrap();
        });
    }
}
