//! A file system of its own for a server: an ext4 image on a loop device that can lose power, or a small one in memory
//! that can run full. Refuses to leave anything mounted.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// EXT4_IOC_SHUTDOWN and its flags: whether what the journal has not written gets to the medium first, or is gone.
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d;
static LOGFLUSH: u32 = 1;
static NOLOGFLUSH: u32 = 2;
/// FIFREEZE and FITHAW: whoever writes in between waits.
const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;

/// A mounted file system.
pub struct Volume {
    /// None: it is in memory.
    image: Option<PathBuf>,
    mount: PathBuf,
    _dir: tempfile::TempDir,
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', ", ");
    if output.status.success() { Ok(()) } else { Err(format!("{program} {}: {said}", words.join(" "))) }
}

impl Volume {
    /// An ext4 file system of this size in a file.
    pub fn on_loop_device(mib: u64) -> Result<Volume, String> {
        let mut volume = Volume::prepare()?;
        let image = volume._dir.path().join("image");
        let sized = File::create(&image).and_then(|file| file.set_len(mib << 20));
        sized.map_err(|error| format!("{}: {error}", image.display()))?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", path(&image)])?;
        volume.image = Some(image);
        volume.mount()?;
        Ok(volume)
    }

    /// A file system in memory.
    pub fn in_memory(mib: u64) -> Result<Volume, String> {
        let volume = Volume::prepare()?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs", path(&volume.mount)])?;
        Ok(volume)
    }

    fn prepare() -> Result<Volume, String> {
        let dir = crate::process::data_dir();
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount).map_err(|error| format!("{}: {error}", mount.display()))?;
        Ok(Volume { image: None, mount, _dir: dir })
    }

    fn mount(&self) -> Result<(), String> {
        let image = self.image.as_ref().expect("it is on a loop device");
        run("mount", &["-o", "loop", path(image), path(&self.mount)])
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: from now on nothing reaches the medium, and what was only in memory is gone for good.
    pub fn power_off(&self) -> io::Result<()> {
        request(&File::open(&self.mount)?, EXT4_IOC_SHUTDOWN, &NOLOGFLUSH)
    }

    /// From now on every read and write fails with EIO.
    pub fn fail(&self) -> io::Result<()> {
        request(&File::open(&self.mount)?, EXT4_IOC_SHUTDOWN, &LOGFLUSH)
    }

    /// From now on every write waits, until the returned value is dropped. Not even kill -9 ends a process meanwhile.
    pub fn freeze(&self) -> io::Result<Frozen> {
        let mount = File::open(&self.mount)?;
        request(&mount, FIFREEZE, &0)?;
        Ok(Frozen { mount })
    }

    /// Power is back: the file system recovers from its journal. Whoever used it is gone.
    pub fn power_on(&self) {
        // The kernel may still be closing the files of a process that was killed.
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(what) = run("umount", &[path(&self.mount)]) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.mount().expect("what was mounted can be mounted again");
    }

    /// Takes all the room that is left; it comes back when the filling is dropped.
    pub fn fill(&self) -> Filling {
        let file = self.mount.join("filling");
        let mut out = File::create(&file).expect("a file takes no room");
        let block = vec![b'x'; 1 << 16];
        while io::Write::write_all(&mut out, &block).is_ok() {}
        Filling { file }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A test that failed may not have stopped everybody yet.
        let _ = run("umount", &[path(&self.mount)]).or_else(|_| run("umount", &["-l", path(&self.mount)]));
    }
}

fn request(file: &File, request: libc::Ioctl, argument: &u32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the argument points to a u32, which these requests read or ignore.
    let failed = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw const *argument) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A volume that takes no writes.
pub struct Frozen {
    mount: File,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        request(&self.mount, FITHAW, &0).expect("what was frozen can be thawed");
    }
}

/// What fills a volume.
pub struct Filling {
    file: PathBuf,
}

impl Drop for Filling {
    fn drop(&mut self) {
        std::fs::remove_file(&self.file).expect("the file is there");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// Why no power can be cut on this machine; `None`: it can.
pub fn no_power_cuts() -> Option<String> {
    static WHY: OnceLock<Option<String>> = OnceLock::new();
    let probe = || -> Result<(), String> {
        let volume = Volume::on_loop_device(16)?;
        let file = volume.path().join("unsynced");
        std::fs::write(&file, b"x").map_err(|error| error.to_string())?;
        volume.power_off().map_err(|error| format!("a file system cannot be shut down: {error}"))?;
        volume.power_on();
        let kept = std::fs::read(&file).is_ok_and(|bytes| !bytes.is_empty());
        if kept { Err("what was not synced survives the shutdown of a file system".into()) } else { Ok(()) }
    };
    WHY.get_or_init(|| probe().err()).clone()
}

/// Why no small file system can be had on this machine; `None`: it can.
pub fn no_small_disks() -> Option<String> {
    Volume::in_memory(1).err()
}

/// Why no disk can be made to hang on this machine; `None`: one can.
pub fn no_freezer() -> Option<String> {
    let probe = || -> Result<(), String> {
        let volume = Volume::on_loop_device(16)?;
        volume.freeze().map(drop).map_err(|error| format!("a file system cannot be frozen: {error}"))
    };
    probe().err()
}
