use aya::programs::SchedClassifier;
fn main() {
    let mut e = match bulkhead::dataplane::object::open(None, &Default::default()) {
        Ok(e) => e,
        Err(e) => {
            println!("{e:#?}");
            return;
        }
    };
    for n in ["from_pod", "to_pod"] {
        let p: &mut SchedClassifier = e.program_mut(n).unwrap().try_into().unwrap();
        match p.load() {
            Ok(()) => {
                let i = p.info().unwrap();
                println!("{n} ok insns {:?} jited {}", i.verified_instruction_count(), i.size_jitted());
            }
            Err(aya::programs::ProgramError::LoadError { io_error, verifier_log }) => {
                let t = verifier_log.to_string();
                let l: Vec<_> = t.lines().collect();
                println!("{n} {io_error} lines {}", l.len());
                for x in &l[l.len().saturating_sub(60)..] {
                    println!("{x}");
                }
            }
            Err(x) => println!("{n} {x:?}"),
        }
    }
}
