/* The plugin executable that a container runtime starts. It passes a CNI call to the agent, or to the Python plugin.
 *
 * The call (CNI's variables, stdin, an open descriptor of CNI_NETNS) goes to the agent's socket in the format of
 * protocol.py; the agent's reply becomes our stdout, stderr and exit code. If no agent answers, or it ends before its
 * reply is complete, and an agent should be running, we answer with the error that plugin.py would give, without
 * starting Python. If none should be running, we execute the Python plugin with the same stdin and environment.
 * Nothing is written to stdout before the whole reply was read, so the Python plugin always starts with an empty one.
 *
 * On a node that has no Python of ours, because the agent is a pod, the launcher refuses such a call itself: it always
 * ends with a result or with an error of the CNI specification.
 *
 * Under the name `bgpcni-ipam` this is an IPAM plugin: the call says so to the agent, or goes to that Python module.
 *
 * It reads no JSON but the text behind "cniVersion", and does not validate: what cannot be opened is not sent, and
 * whoever answers the call reports the error. So while there is a Python, a call that lacks a variable is never refused
 * here, and neither is VERSION, whose answer repeats a part of stdin. A stdin that is too long is cut to limit + 1
 * octets and goes to the Python plugin, which refuses it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define HELLO 0x06
#define HELLO_SECONDS 5
#define MAX_REQUEST (1 << 20)
#define MAX_GC (16 << 20)
#define MAX_REPLY (16 << 20)
#define HEADER_SIZE 16
#define REPLY_SIZE 12
#define DEFAULT_SOCKET "/run/bgpcni/agent.sock"
#define AGENT_CONFIG "/etc/bgpcni/agent.toml"
#define NOBODY (-1)

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

extern char **environ;

/* The installer overwrites this field with the interpreter's path, or with zeroes if only an agent does the calls. It is
 * volatile, so that the compiler reads it. */
static volatile char python[4096] = "@BGPCNI-PYTHON@";

static char variables[MAX_GC], input[MAX_GC + 1], reply[MAX_REPLY];

static int complain(const char *what, const char *of)
{
    const char *parts[] = {"bgpcni: ", what, of, ": ", strerror(errno), "\n"};
    struct iovec line[6];
    for (int i = 0; i < 6; i++)
        line[i] = (struct iovec){(char *)parts[i], strlen(parts[i])};
    if (writev(2, line, 6) < 0)
        return 1; /* there is nobody to tell it to */
    return 1;
}

static int ready(int fd, short events, int milliseconds)
{
    struct pollfd one = {.fd = fd, .events = events};
    int n;
    while ((n = poll(&one, 1, milliseconds)) < 0 && errno == EINTR)
        ;
    return n > 0;
}

/* Read until `room` octets are read, or until the end or an error. */
static size_t read_whole(int fd, char *to, size_t room)
{
    size_t have = 0;
    while (have < room) {
        ssize_t n = read(fd, to + have, room - have);
        if (n > 0)
            have += (size_t)n;
        else if (n == 0 || (errno != EINTR && !(errno == EAGAIN && ready(fd, POLLIN, -1))))
            break;
    }
    return have;
}

static int write_whole(int fd, const char *from, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, from, size);
        if (n >= 0) {
            from += n;
            size -= (size_t)n;
        } else if (errno != EINTR && !(errno == EAGAIN && ready(fd, POLLOUT, -1))) {
            return 0;
        }
    }
    return 1;
}

static void put32(unsigned char *at, size_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(value >> (24 - 8 * i));
}

static uint32_t get32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* A runtime may start us without descriptors 0 to 2; the ones that we open must not get these numbers. */
static void fill_standard_descriptors(void)
{
    int fd;
    while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd <= 2)
        ;
    if (fd > 2)
        close(fd);
}

/* If we run with more privileges than the caller (AT_SECURE), the caller may not choose the socket or the folders. */
static void drop_untrusted_variables(void)
{
    char **kept = environ;
    if (!getauxval(AT_SECURE))
        return;
    for (char **entry = environ; *entry; entry++)
        if (strncmp(*entry, "BGPCNI_", 7) != 0)
            *kept++ = *entry;
    *kept = NULL;
}

/* getenv() finds the first entry of a name, so the agent must get that one and no other. */
static int shadowed(char **entry, size_t name)
{
    for (char **earlier = environ; earlier != entry; earlier++)
        if (strncmp(*earlier, *entry, name) == 0)
            return 1;
    return 0;
}

/* Write the environment block of protocol.py. Returns its size, or `limit` + 1 if it is larger than `limit`. */
static size_t gather_variables(size_t limit)
{
    size_t have = 0;
    for (char **entry = environ; *entry; entry++) {
        const char *equals = strchr(*entry, '=');
        size_t size = strlen(*entry) + 1;
        if (!equals || strncmp(*entry, "CNI_", 4) != 0 || shadowed(entry, (size_t)(equals - *entry) + 1))
            continue;
        if (size > limit - have)
            return limit + 1;
        memcpy(variables + have, *entry, size);
        have += size;
    }
    return have;
}

/* A socket connected to an agent of root's or our own user that has sent HELLO, or -1. */
static int reach_agent(void)
{
    const char *path = getenv("BGPCNI_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval bound = {.tv_sec = HELLO_SECONDS}; /* for connect() when the backlog is full, and for each send */
    struct ucred peer;
    socklen_t size = sizeof peer;
    char hello = 0;
    int agent, connected;

    if (!path || !*path)
        path = DEFAULT_SOCKET;
    if (strlen(path) >= sizeof address.sun_path)
        return -1;
    strcpy(address.sun_path, path);
    if ((agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
        return -1;
    if (setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound) == 0) {
        while ((connected = connect(agent, (struct sockaddr *)&address, sizeof address)) < 0 && errno == EINTR)
            ;
        if (connected == 0 && getsockopt(agent, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
            (peer.uid == 0 || peer.uid == geteuid()) && ready(agent, POLLIN, HELLO_SECONDS * 1000) &&
            read_whole(agent, &hello, 1) == 1 && hello == HELLO)
            return agent;
    }
    close(agent);
    return -1;
}

/* False only if the agent stops reading. One that closes the connection may have answered first. */
static int send_request(int agent, char kind, int netns, size_t variables_size, size_t input_size)
{
    unsigned char header[HEADER_SIZE] = {'B', 'G', 'C', '1', (unsigned char)kind};
    struct iovec parts[3] = {{header, sizeof header}, {variables, variables_size}, {input, input_size}};
    union {
        struct cmsghdr aligned;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};

    put32(header + 8, variables_size);
    put32(header + 12, input_size);
    if (netns >= 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof netns);
        memcpy(CMSG_DATA(rights), &netns, sizeof netns);
    }
    while (message.msg_iovlen > 0) {
        ssize_t n = sendmsg(agent, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno != EAGAIN;
        message.msg_control = NULL; /* the descriptor was sent with the first octet */
        message.msg_controllen = 0;
        while (message.msg_iovlen > 0 && (size_t)n >= message.msg_iov->iov_len) {
            n -= (ssize_t)message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen > 0) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + n;
            message.msg_iov->iov_len -= (size_t)n;
        }
    }
    return 1;
}

/* There is no deadline: an ADD may wait for good reasons, and if the agent dies, the stream ends. */
static int relay_reply(int agent)
{
    unsigned char header[REPLY_SIZE];
    size_t out, err;

    if (read_whole(agent, (char *)header, sizeof header) < sizeof header)
        return NOBODY;
    out = get32(header + 4);
    err = get32(header + 8);
    if (out > sizeof reply || err > sizeof reply - out || read_whole(agent, reply, out + err) < out + err)
        return NOBODY;
    if (err > 0)
        (void)write_whole(2, reply + out, err);
    if (!write_whole(1, reply, out))
        return complain("cannot write the result", "");
    return header[0];
}

/* The exit code, or NOBODY. */
static int ask_agent(char kind, size_t variables_size, size_t input_size)
{
    const char *path = getenv("CNI_NETNS");
    int code = NOBODY, netns = -1, agent = reach_agent();

    if (agent < 0)
        return NOBODY;
    if (path && *path) /* it may be a FIFO, so this must not block; the agent refuses a FIFO */
        netns = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int sent = send_request(agent, kind, netns, variables_size, input_size);
    if (netns >= 0)
        close(netns); /* until now our descriptor has kept the namespace alive */
    if (sent)
        code = relay_reply(agent);
    close(agent);
    return code;
}

/* Commands that are refused if the agent is missing, and the variables that a valid call must have (environment.py).
 * The version is one in which the command exists; it is only used in the error. */
static const struct refusal {
    const char *command, *code, *version, *needed[5];
} refusals[] = {
    {"ADD", "11", "1.0.0", {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", NULL}},
    {"DEL", "11", "1.0.0", {"CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH", NULL}},
    {"CHECK", "11", "1.0.0", {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", NULL}},
    {"GC", "11", "1.1.0", {"CNI_PATH", NULL}},
    {"STATUS", "50", "1.1.0", {"CNI_PATH", NULL}},
};

static int is_there(const char *path)
{
    struct stat found;
    return lstat(path, &found) == 0;
}

/* Whether a text can be a JSON string without escapes. */
static int is_plain(const char *text)
{
    for (; *text; text++)
        if (*text < ' ' || *text > '~' || *text == '"' || *text == '\\')
            return 0;
    return 1;
}

static int say(int fd, const char *const *parts)
{
    struct iovec line[20];
    int count = 0;
    for (; parts[count]; count++)
        line[count] = (struct iovec){(char *)parts[count], strlen(parts[count])};
    return writev(fd, line, count) >= 0;
}

/* Versions of the specification that we speak (versions.py). */
static const char *const supported[] = {"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", NULL};

/* The first version that stdin has behind the word "cniVersion", written to `to`, or "". */
static const char *asked_version(size_t input_size, char to[16])
{
    static const char word[] = "\"cniVersion\"";
    const char *at = input, *end = input + input_size;

    while ((at = memmem(at, (size_t)(end - at), word, sizeof word - 1)) != NULL) {
        const char *value = at += sizeof word - 1;
        size_t size = 0;
        int seen = 0; /* of `:` and `"` */
        for (; value < end && seen < 2 && memchr(seen ? " \t\r\n\"" : " \t\r\n:", *value, 5); value++)
            seen += *value == (seen ? '"' : ':');
        while (seen == 2 && value + size < end && size < 15 &&
               ((value[size] >= '0' && value[size] <= '9') || value[size] == '.'))
            size++;
        if (size > 0 && value + size < end && value[size] == '"') {
            memcpy(to, value, size);
            to[size] = 0;
            return to;
        }
    }
    return "";
}

/* The version for an error's reader: the configuration's if we speak it, else `otherwise`. */
static const char *error_version(size_t input_size, const char *otherwise)
{
    char asked[16];
    const char *version = asked_version(input_size, asked);
    for (const char *const *one = supported; *one; one++)
        if (strcmp(*one, version) == 0)
            return *one;
    return otherwise;
}

/* Refuse a call that needs an agent: returns the exit code. NOBODY: the call needs none, or it is not valid. */
static int refuse(const char *command, size_t input_size)
{
    const char *configured = getenv("BGPCNI_SOCKET"), *where = DEFAULT_SOCKET, *why = "no agent answers on ";
    const char *version;
    const struct refusal *one = refusals, *end = refusals + sizeof refusals / sizeof *refusals;

    while (one < end && strcmp(command, one->command) != 0)
        one++;
    if (one == end)
        return NOBODY;
    for (const char *const *name = one->needed; *name; name++)
        if (!getenv(*name) || !*getenv(*name))
            return NOBODY;
    if (configured && *configured)
        where = configured;
    else if (is_there(DEFAULT_SOCKET))
        ;
    else if (is_there(AGENT_CONFIG))
        why = AGENT_CONFIG " exists, but no agent answers on ";
    else
        return NOBODY;
    if (!is_plain(where))
        return NOBODY;
    version = error_version(input_size, one->version);
    (void)say(2, (const char *const[]){"bgpcni: ", command, " failed: ", why, where, ": start bgpcni agent\n", NULL});
    if (!say(1, (const char *const[]){"{\"cniVersion\": \"", version, "\", \"code\": ", one->code, ", \"msg\": \"",
                                      why, where, ": start bgpcni agent\"}\n", NULL}))
        return complain("cannot write the result", "");
    return 1;
}

/* What became of the call before Python was to do it. */
enum reason { NO_AGENT, TOO_LARGE };

/* The exit code of a call that neither an agent nor Python answers. `failure`: errno of Python's start; 0: there is
 * none to start. */
static int do_without_python(const char *command, size_t input_size, enum reason reason, int failure)
{
    const char *where = getenv("BGPCNI_SOCKET"), *code = "11", *path = (const char *)python;
    char asked[16];
    const char *text[8] = {NULL};

    command = command && is_plain(command) ? command : "";
    where = where && *where ? where : DEFAULT_SOCKET;
    where = is_plain(where) ? where : "the socket in BGPCNI_SOCKET";
    path = failure ? is_plain(path) ? path : "bgpcni's Python" : "";
    if (strcmp(command, "VERSION") == 0 && reason != TOO_LARGE) {
        const char *const *one = supported;
        const char *version = asked_version(input_size, asked);
        int told = say(1, (const char *const[]){"{\"cniVersion\": \"", *version ? version : "1.1.0",
                                                "\", \"supportedVersions\": [", NULL});
        for (; *one && told; one++)
            told = say(1, (const char *const[]){"\"", *one, one[1] ? "\", " : "\"]}\n", NULL});
        return told ? 0 : complain("cannot write the result", "");
    }
    if (reason == TOO_LARGE) {
        code = "6";
        text[0] = "the network configuration is larger than ";
        text[1] = strcmp(command, "GC") == 0 ? "16777216 octets" : "1048576 octets";
    } else {
        code = strcmp(command, "STATUS") == 0 ? "50" : code;
        text[0] = "no agent answers on ";
        text[1] = where;
        text[2] = failure ? ", and cannot execute " : ", and bgpcni was installed on this node without its Python";
        text[3] = path;
        text[4] = failure ? ": " : "";
        text[5] = failure ? strerror(failure) : "";
        text[6] = ": start bgpcni agent, or look at its pod on this node";
    }
    for (int i = 0; i < 7; i++)
        text[i] = text[i] ? text[i] : "";
    (void)say(2, (const char *const[]){"bgpcni: ", command, *command ? " failed: " : "", text[0], text[1], text[2],
                                       text[3], text[4], text[5], text[6], "\n", NULL});
    if (!say(1, (const char *const[]){"{\"cniVersion\": \"", error_version(input_size, "1.1.0"), "\", \"code\": ", code,
                                      ", \"msg\": \"", text[0], text[1], text[2], text[3], text[4], text[5], text[6],
                                      "\"}\n", NULL}))
        return complain("cannot write the result", "");
    return 1;
}

static int become_python(const char *command, size_t input_size, enum reason reason, int ipam)
{
    char *module = ipam ? "bgpcni.ipam_plugin" : "bgpcni.plugin";
    char *const arguments[] = {(char *)python, "-I", "-m", module, NULL};
    int again;

    if (!*python)
        return do_without_python(command, input_size, reason, 0);
    again = memfd_create("stdin", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (again < 0 && errno == EINVAL) /* kernels before 6.3 */
        again = memfd_create("stdin", MFD_CLOEXEC);
    if (again < 0 || !write_whole(again, input, input_size) || lseek(again, 0, SEEK_SET) < 0 || dup2(again, 0) < 0)
        return complain("cannot pass on stdin", "");
#ifdef SYS_close_range
    syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
#endif
    execv(arguments[0], arguments);
    return do_without_python(command, input_size, reason, errno);
}

/* Whether the runtime has called us as the IPAM plugin, by our name. Other arguments are ignored. */
static int is_ipam(int count, char **arguments)
{
    const char *slash = count > 0 ? strrchr(arguments[0], '/') : NULL;
    return count > 0 && strcmp(slash ? slash + 1 : arguments[0], "bgpcni-ipam") == 0;
}

int main(int count, char **arguments)
{
    enum reason reason = NO_AGENT;
    int code = NOBODY, ipam = is_ipam(count, arguments);

    fill_standard_descriptors();
    signal(SIGPIPE, SIG_IGN);
    drop_untrusted_variables();
    const char *command = getenv("CNI_COMMAND");
    size_t limit = command && strcmp(command, "GC") == 0 ? MAX_GC : MAX_REQUEST;
    size_t variables_size = gather_variables(limit);
    size_t input_size = read_whole(0, input, limit + 1);
    if (variables_size + input_size > limit)
        reason = TOO_LARGE;
    if (reason == NO_AGENT) {
        code = ask_agent(ipam ? 'I' : 'C', variables_size, input_size);
        if (code == NOBODY && command && input_size > 0)
            code = refuse(command, input_size);
    }
    return code == NOBODY ? become_python(command, input_size, reason, ipam) : code;
}
