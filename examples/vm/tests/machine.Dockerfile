# A Debian machine with systemd, for the example in examples/vm. It is built on an image that the
# Compose example needs anyway: one less to have.
FROM python:3.13-slim

RUN apt-get update -q \
    && apt-get install -y -q --no-install-recommends ca-certificates python3 python3-venv systemd \
    && rm -rf /var/lib/apt/lists/*
# The container is privileged. These would change the host's kernel, or use its consoles.
RUN systemctl mask getty.target proc-sys-fs-binfmt_misc.automount sys-kernel-config.mount \
        sys-kernel-debug.mount sys-kernel-tracing.mount systemd-binfmt.service \
        systemd-modules-load.service systemd-remount-fs.service systemd-sysctl.service \
    && install -d /etc/systemd/journald.conf.d \
    && printf '[Journal]\nReadKMsg=no\nStorage=persistent\n' \
        > /etc/systemd/journald.conf.d/container.conf
# On this signal, Debian's systemd stops in order.
STOPSIGNAL SIGRTMIN+3
# Credentials are mounted by a helper in a namespace of its own, and have to be seen outside. A machine
# that boots has its root shared; systemd leaves a container's as it is.
CMD ["sh", "-c", "mount --make-rshared / && exec /usr/lib/systemd/systemd"]
