# docker build .                   the gateway (the default target, the last one)
# docker build --target demo .     the demo provider and the demo API of docker-compose.yml

FROM node:24-bookworm-slim AS build
WORKDIR /app
# The manifests first: the layers with the packages last until these change.
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json ./
COPY src src
RUN npm run build

# The demo's provider is a development dependency, so this is the build stage with another start.
FROM build AS demo
ENV NODE_ENV=production HOST=0.0.0.0
USER node
CMD ["node", "dist/demo/serve-provider.js"]

FROM build AS gateway-files
RUN rm -r dist/demo

FROM node:24-bookworm-slim AS gateway
WORKDIR /app
# Before NODE_ENV and the code, so that neither a release nor a setting repeats it.
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --no-audit --no-fund && npm cache clean --force
COPY --from=gateway-files /app/dist dist
COPY LICENSE ./
# The internal listener has to be reachable for probes and scrapers: publish 8080 to the world, 9090 to nobody.
ENV NODE_ENV=production ADMIN_HOST=0.0.0.0
# Everything above belongs to root, so the process cannot change its own code.
USER node
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.ADMIN_PORT||9090}/healthz`).then(r=>process.exit(r.ok?0:1))"]
# In exec form node is the container's first process and gets SIGTERM itself, which starts the drain.
CMD ["node", "dist/main.js"]
