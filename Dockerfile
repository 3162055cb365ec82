# The server in an image with nothing else in it: docker build -t grpcchatter .
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
# With .git, from which Go takes the version.
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o /out/grpcchatter . && mkdir /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/grpcchatter /grpcchatter
COPY --from=build --chown=65532:65532 /out/data /data
# A user without a name and without rights.
USER 65532:65532
# Relative paths, such as that of the default DATABASE_URL, are in the volume.
WORKDIR /data
VOLUME /data
ENV LISTEN_ADDR=0.0.0.0:8080 DATABASE_URL=sqlite:/data/grpcchatter.db
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["/grpcchatter", "health"]
ENTRYPOINT ["/grpcchatter"]
