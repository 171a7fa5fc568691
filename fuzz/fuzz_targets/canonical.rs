#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| azure_proxy_agent_fuzz::canonical::run(data));
