//! Decoding of bytes that containerd's library (NRI 0.12, ttrpc 1.2.8) wrote, and of bytes that are not NRI.

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::nri::message::{
    PodSandbox, RegisterPluginRequest, RunPodSandboxRequest, StateChangeEvent, SynchronizeRequest, TtrpcRequest,
};

/// The runtime's RunPodSandbox as the socket carried it: the frame's header, then the message.
const RUN: &str = "000000010000009d000000930000000301000a1b6e72692e706b672e6170692e7631616c706861312e506c7567696e\
    120d52756e506f6453616e64626f781a600a5e0a02733112057765622d301a027531220473686f702a060a016112016242331a092f6b75\
    6265706f64732a050a037069642a1f0a076e6574776f726b12142f7661722f72756e2f6e65746e732f636e692d31480752083130\
    2e302e302e352085cc935f";
/// The same announcement from a runtime with an older NRI.
const CHANGE: &str = "000000010000009d000000930000000501000a1b6e72692e706b672e6170692e7631616c706861312e506c7567696e\
    120b53746174654368616e67651a620801125e0a02733112057765622d301a027531220473686f702a060a016112016242331a092f6b75\
    6265706f64732a050a037069642a1f0a076e6574776f726b12142f7661722f72756e2f6e65746e732f636e692d31480752083130\
    2e302e302e3520e0f79d5f";
/// The first part of the list of sandboxes; more parts follow.
const SYNCHRONIZE: &str = "000000010000009d000000930000000701000a1b6e72692e706b672e6170692e7631616c706861312e50\
    6c7567696e120b53796e6368726f6e697a651a620a5e0a02733112057765622d301a027531220473686f702a060a016112016242331a09\
    2f6b756265706f64732a050a037069642a1f0a076e6574776f726b12142f7661722f72756e2f6e65746e732f636e692d3148075208\
    31302e302e302e351801208ac6a55f";
/// A plugin's registration, in the two writes the library makes of it.
const REGISTER: &str = "00000002000000560000004c0000000101000a1c6e72692e706b672e6170692e7631616c706861312e52756e74\
    696d65120e5265676973746572506c7567696e1a170a0862756c6b68656164120239391a0776302e31322e3020e5e5925f";

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    hex.as_bytes().chunks(2).map(digit).collect()
}

/// All messages of these bytes, read in these pieces.
fn decode(pieces: &[&[u8]]) -> Result<Vec<TtrpcMessage>, WireError> {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.incoming().extend_from_slice(piece);
        while let Some(message) = decoder.next()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

fn only(hex: &str) -> TtrpcMessage {
    let mut all = decode(&[&bytes(hex)]).expect("it is NRI");
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn request(message: &TtrpcMessage) -> TtrpcRequest {
    TtrpcRequest::decode(message.payload.clone()).expect("a request")
}

#[test]
fn a_new_sandbox_is_decoded_with_every_field_that_the_agent_uses() {
    let message = only(RUN);
    assert_eq!((message.conn, message.kind, message.stream), (Conn::Plugin, TtrpcKind::Request, 3));
    let request = request(&message);
    assert_eq!((&*request.service, &*request.method), ("nri.pkg.api.v1alpha1.Plugin", "RunPodSandbox"));
    assert_eq!(request.timeout_nano / 1_000_000, 199);
    let pod = RunPodSandboxRequest::decode(request.payload).expect("it").pod.expect("a pod");
    assert_eq!([&*pod.id, &*pod.namespace, &*pod.name, &*pod.uid], ["s1", "shop", "web-0", "u1"]);
    assert_eq!(pod.network(), Some("/var/run/netns/cni-1"));
}

#[test]
fn an_older_runtime_announces_a_sandbox_with_another_message() {
    let request = request(&only(CHANGE));
    assert_eq!(request.method, "StateChange");
    let change = StateChangeEvent::decode(request.payload).expect("it");
    assert_eq!((change.event, change.pod.expect("a pod").uid), (1, "u1".to_owned()));
}

#[test]
fn a_list_of_sandboxes_is_decoded_only_for_whether_more_follows() {
    let request = request(&only(SYNCHRONIZE));
    assert_eq!(request.method, "Synchronize");
    assert!(SynchronizeRequest::decode(request.payload).expect("it").more);
}

#[test]
fn a_registration_is_byte_for_byte_what_the_library_sends() {
    let read = request(&only(REGISTER));
    let register = RegisterPluginRequest::decode(read.payload.clone()).expect("it");
    let again = RegisterPluginRequest {
        plugin_name: "bulkhead".into(),
        plugin_idx: "99".into(),
        nri_version: "v0.12.0".into(),
    };
    assert_eq!(register, again);
    let request = TtrpcRequest { payload: again.encode_to_vec().into(), ..read };
    let payload = request.encode_to_vec().into();
    let sent = TtrpcMessage { conn: Conn::Runtime, stream: 1, kind: TtrpcKind::Request, payload }.encode();
    assert_eq!(sent, bytes(REGISTER));
}

#[test]
fn a_pod_without_a_network_of_its_own_names_none() {
    assert_eq!(PodSandbox::default().network(), None);
    let mut pod = RunPodSandboxRequest::decode(request(&only(RUN)).payload).expect("it").pod.expect("a pod");
    pod.linux.as_mut().expect("on Linux").namespaces.retain(|namespace| namespace.kind != "network");
    assert_eq!(pod.network(), None);
}

#[test]
fn no_message_is_returned_before_its_last_byte() {
    let whole = bytes(RUN);
    for cut in 0..whole.len() {
        assert_eq!(decode(&[&whole[..cut]]), Ok(vec![]), "{cut}");
    }
}

#[test]
fn a_message_may_span_several_frames_and_a_frame_may_hold_two() {
    let (run, change) = (bytes(RUN), bytes(CHANGE));
    let body = &run[FRAME_HEADER..];
    let piece = |id: u8, body: &[u8]| [&[0, 0, 0, id, 0, 0, 0, body.len() as u8][..], body].concat();
    let split = [piece(1, &body[..5]), piece(1, &[]), piece(1, &body[5..40]), piece(1, &body[40..])].concat();
    assert_eq!(decode(&[&split]), Ok(vec![only(RUN)]));
    let both = [body, &change[FRAME_HEADER..]].concat();
    let both = [&[0, 0, 0, 1][..], &(both.len() as u32).to_be_bytes(), &both].concat();
    assert_eq!(decode(&[&both]), Ok(vec![only(RUN), only(CHANGE)]));
    // A frame of the other connection may come between two frames of a message.
    let answer = TtrpcMessage { conn: Conn::Runtime, stream: 1, kind: TtrpcKind::Response, payload: Bytes::new() };
    let mixed = [&piece(1, &body[..9])[..], &answer.encode(), &piece(1, &body[9..])].concat();
    assert_eq!(decode(&[&mixed]), Ok(vec![answer, only(RUN)]));
}

#[test]
fn a_frame_of_an_unknown_connection_is_skipped() {
    for id in [0, 3, 255] {
        let stray = [&[0, 0, 0, id, 0, 0, 0, 3, 9, 9, 9][..], &bytes(RUN)].concat();
        assert_eq!(decode(&[&stray]), Ok(vec![only(RUN)]));
    }
}

#[test]
fn a_length_above_the_limit_is_refused_before_memory_is_reserved() {
    let incoming = |length: u32| [&[0, 0, 0, 1][..], &length.to_be_bytes()].concat();
    let most = (MESSAGE_HEADER + MAX_MESSAGE) as u32;
    assert_eq!(decode(&[&incoming(most)]), Ok(vec![]));
    assert_eq!(decode(&[&incoming(most + 1)]), Err(WireError::Oversized(most as usize + 1)));
    assert_eq!(decode(&[&incoming(u32::MAX)]), Err(WireError::Oversized(u32::MAX as usize)));
    let message = |length: u32| [&incoming(10)[..], &length.to_be_bytes(), &[0, 0, 0, 1, 1, 0]].concat();
    assert_eq!(decode(&[&message(MAX_MESSAGE as u32)]), Ok(vec![]));
    assert_eq!(decode(&[&message(MAX_MESSAGE as u32 + 1)]), Err(WireError::Oversized(MAX_MESSAGE + 1)));
}

#[test]
fn kinds_that_nri_does_not_use_are_refused() {
    for kind in [0, 3, 255] {
        let mut changed = bytes(RUN);
        changed[FRAME_HEADER + 8] = kind;
        assert_eq!(decode(&[&changed]), Err(WireError::Kind(kind)));
    }
}

proptest! {
    #[test]
    fn messages_do_not_depend_on_where_reads_split_the_bytes(cuts in prop::collection::vec(0_usize..700, 0..20)) {
        let whole = [bytes(RUN), bytes(REGISTER), bytes(SYNCHRONIZE), bytes(CHANGE)].concat();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).chain([0, whole.len()]).collect();
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
        prop_assert_eq!(decode(&pieces), decode(&[&whole]));
        prop_assert_eq!(decode(&pieces).map(|all| all.len()), Ok(4));
    }

    #[test]
    fn noise_ends_in_an_error_or_occupies_bounded_memory(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut decoder = Decoder::default();
        decoder.incoming().extend_from_slice(&noise);
        let kept = loop {
            match decoder.next() {
                Ok(Some(message)) => prop_assert!(message.payload.len() <= noise.len()),
                Ok(None) => break decoder.incoming.len() + decoder.plugin.len() + decoder.runtime.len(),
                Err(_) => break 0,
            }
        };
        prop_assert!(kept <= noise.len());
    }
}
