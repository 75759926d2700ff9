/* load_crash_kernel KERNEL INITRAMFS COMMAND-LINE: what runs when this kernel crashes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ON_CRASH 2L /* KEXEC_FILE_ON_CRASH, linux/kexec.h */

int main(int count, char **words)
{
	if (count != 4)
		return 2;
	int kernel = open(words[1], O_RDONLY), initramfs = open(words[2], O_RDONLY);

	if (syscall(SYS_kexec_file_load, kernel, initramfs, strlen(words[3]) + 1, words[3], ON_CRASH)) {
		perror("kexec_file_load");
		return 1;
	}
	return 0;
}
