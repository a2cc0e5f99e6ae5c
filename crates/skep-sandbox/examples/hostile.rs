//! A hostile program, run safely.

use skep_sandbox::{Config, Error, Request, Run, Sandbox};

#[tokio::main]
async fn main() -> Result<(), Error> {
    skep_sandbox::init();
    let sandbox = Sandbox::start(Config::default()).await?;
    let program = "
        cat /etc/shadow ~/.ssh/id_*; env; ps aux; ls /home /root /var
        curl -m 1 http://169.254.169.254/; echo 'I was here' > /usr/bin/ls
        (setsid sleep 1000 &); f() { f | f & }; f; echo done > /outputs/result";
    let mut request = Request::new(Run::Bash(program.into()));
    request.limits.wall = std::time::Duration::from_secs(2);
    let outcome = sandbox.run(request, Default::default()).await?;
    println!("{:?} after {:?}, nothing left", outcome.end, outcome.usage.wall);
    println!("{}", String::from_utf8_lossy(&outcome.stdout));
    println!("{} bytes of complaints, {} files", outcome.stderr.len(), outcome.outputs.len());
    Ok(())
}
