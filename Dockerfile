# syntax=docker/dockerfile:1
# One static program on nothing: no shell, no package, no user but 65532. The same source makes the
# same program (scripts/static.sh); docs/IMAGE.md says what of this is tried where.
#
#   docker build --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) -t rater:0.1.0 .
FROM rust:1.95.0-slim-bookworm AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /rater
# The compiler's linker and C library are there; the authorities are for databases and collectors.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates binutils && \
    rm -rf /var/lib/apt/lists/*
COPY . .
RUN SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH scripts/static.sh && \
    cp target/static/*/release/rater /usr/local/bin/rater

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /usr/local/bin/rater /rater
USER 65532:65532
EXPOSE 50051 9464
ENTRYPOINT ["/rater"]
