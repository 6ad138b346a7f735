//! Client requests: opcode, then record. Whatever decodes can be walked, encoded, and decoded to the same bytes again.
#![no_main]

use falconer::wire::extension::Extension;
use falconer::wire::request::Request;
use libfuzzer_sys::fuzz_target;

fn walk(request: &Request<'_>) -> usize {
    match request {
        Request::Multi(ops) | Request::MultiRead(ops) => ops.iter().map(|op| walk(&op)).sum(),
        Request::Create(c) | Request::Create2(c) | Request::CreateContainer(c) | Request::CreateTtl(c, _) => c.acl.iter().count(),
        Request::Extension(Extension::CreateIfNotExists(c)) => c.acl.iter().count(),
        Request::SetAcl { acl, .. } => acl.iter().count(),
        Request::SetWatches(set) | Request::SetWatches2(set) => {
            [set.data, set.exist, set.child, set.persistent, set.persistent_recursive].iter().map(|list| list.iter().count()).sum()
        }
        _ => 1,
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((op, body)) = data.split_first_chunk::<4>() else { return };
    let op = i32::from_be_bytes(*op);
    let Ok(request) = Request::decode(op, body) else { return };
    walk(&request);
    assert_eq!(request.opcode(), op);
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    request.encode(&mut once);
    Request::decode(op, &once).expect("what we encode decodes").encode(&mut twice);
    assert_eq!(once, twice);
});
