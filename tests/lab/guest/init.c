// First process of the guest: load the disk driver, mount the root disk, become systemd.
// A static C program, because a shell and its tools would make the initial RAM disk a hundred times larger.
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv, char **envp) {
  (void)argc;
  (void)argv;
  mkdir("/dev", 0755);
  mkdir("/root", 0755);
  mount("dev", "/dev", "devtmpfs", 0, 0);
  int module = open("/virtio_blk.ko", O_RDONLY);
  syscall(SYS_finit_module, module, "", 0);
  close(module);
  // The disk appears a moment after its driver: try for five seconds.
  struct timespec pause = {0, 5000000};
  for (int i = 0; i < 1000 && mount("/dev/vda", "/root", "ext4", MS_NOATIME, ""); i++) nanosleep(&pause, 0);
  mount("dev", "/root/dev", "devtmpfs", 0, 0);
  chdir("/root");
  mount(".", "/", 0, MS_MOVE, 0);
  chroot(".");
  chdir("/");
  char *systemd[] = {"/usr/lib/systemd/systemd", 0};
  execve(systemd[0], systemd, envp);
  perror("cannot start systemd");
  return 1;
}
