/* Loaded into linux.uml: lets it run on a processor with AMX.
 *
 * linux.uml keeps 2.6 KiB of a process's extended registers. PTRACE_GETREGSET cuts what is longer; PTRACE_SETREGSET
 * refuses with EFAULT what is not as long as this processor's (11 KiB with AMX), and linux.uml panics. Here such a
 * call is made again with what it kept laid over the beginning of what the process has.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static long (*next)(int request, ...);

__attribute__((constructor)) static void find(void) { next = dlsym(RTLD_NEXT, "ptrace"); }

long ptrace(enum __ptrace_request request, ...) {
    static _Alignas(64) char whole[65536]; /* linux.uml has one thread that traces */
    va_list words;
    va_start(words, request);
    int pid = va_arg(words, int);
    void *address = va_arg(words, void *), *data = va_arg(words, void *);
    va_end(words);

    long result = next(request, pid, address, data);
    if (result != -1 || errno != EFAULT || request != PTRACE_SETREGSET || (long)address != NT_X86_XSTATE)
        return result;
    struct iovec kept = *(struct iovec *)data, all = {whole, sizeof whole};
    if (next(PTRACE_GETREGSET, pid, address, &all) == -1)
        return -1;
    if (kept.iov_len >= all.iov_len) {
        errno = EFAULT;
        return -1;
    }
    memcpy(whole, kept.iov_base, kept.iov_len);
    return next(request, pid, address, &all);
}
