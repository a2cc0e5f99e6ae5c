//! The smallest program that sandboxes can be started from. Tests use it as [`skep_sandbox::Config::helper`].

fn main() {
    skep_sandbox::init();
    eprintln!("this program is started by skep-sandbox, not by people");
    std::process::exit(2);
}
