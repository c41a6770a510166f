"""The command lines of etcd, the API server, the controller manager and the scheduler, and the files they read."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from deepseek_localcluster.certificates import write_certificates

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_IP = "10.96.0.1"
ISSUER = "https://kubernetes.default.svc.cluster.local"

# Bodies of writes, metadata of reads: tests count requests and read what was written. Renewed leases would drown both.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi*"]},
        {
            "level": "Metadata",
            "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}, {"group": "", "resources": ["secrets"]}],
        },
        {"level": "Metadata", "verbs": ["get", "list", "watch"]},
        {"level": "RequestResponse"},
    ],
}


@dataclass(frozen=True)
class ControlPlane:
    """Where the control plane of one cluster lives."""

    directory: Path
    token: str
    etcd_port: int
    etcd_peer_port: int
    api_port: int

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    @property
    def certificates(self) -> Path:
        """The folder of keys and certificates."""
        return self.directory / "certificates"

    @property
    def audit_log(self) -> Path:
        """One JSON event per line: reads as metadata, writes with request and response."""
        return self.directory / "audit.log"

    def write_files(self) -> None:
        """Keys, tokens, audit policy, scheduler configuration, kubeconfig."""
        write_certificates(self.certificates, SERVICE_IP)
        tokens = self.directory / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.token},admin,admin,"system:masters"\n')
        (self.directory / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
        (self.directory / "scheduler.json").write_text(json.dumps(self._scheduler_configuration()))
        self.kubeconfig.touch(mode=0o600)
        # JSON is yaml: kubectl, helm and every client library read it.
        self.kubeconfig.write_text(json.dumps(kubeconfig(self.server, self.token, (self.certificates / "ca.crt").read_bytes()), indent=1))

    def etcd(self, binary: Path) -> list[str]:
        """etcd without fsync: the data need not survive the machine."""
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer_port}"
        return [
            str(binary), "--name=local", f"--data-dir={self.directory / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=local={peer}",
        ]  # fmt: skip

    def api_server(self, binary: Path) -> list[str]:
        """The API server: RBAC, token login, audit log, the default admission plugins."""
        keys = self.certificates
        return [
            str(binary), f"--etcd-servers=http://127.0.0.1:{self.etcd_port}", f"--secure-port={self.api_port}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",  # an EndpointSlice refuses loopback addresses
            f"--tls-cert-file={keys / 'apiserver.crt'}", f"--tls-private-key-file={keys / 'apiserver.key'}",
            f"--service-account-issuer={ISSUER}", f"--service-account-key-file={keys / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={keys / 'service-accounts.key'}",
            "--authorization-mode=RBAC", f"--token-auth-file={self.directory / 'tokens.csv'}",
            f"--service-cluster-ip-range={SERVICE_RANGE}", "--allow-privileged=true",
            f"--audit-policy-file={self.directory / 'audit-policy.json'}", f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=10000",
        ]  # fmt: skip

    def controller_manager(self, binary: Path) -> list[str]:
        """The controller manager with its default controllers."""
        keys = self.certificates
        return [
            str(binary), f"--kubeconfig={self.kubeconfig}", "--use-service-account-credentials=true", "--leader-elect=false", "--secure-port=0",
            f"--service-account-private-key-file={keys / 'service-accounts.key'}", f"--root-ca-file={keys / 'ca.crt'}",
            "--kube-api-qps=200", "--kube-api-burst=400",  # a thousand nodes join within seconds
        ]  # fmt: skip

    def scheduler(self, binary: Path) -> list[str]:
        """The scheduler with its default profile."""
        return [str(binary), f"--config={self.directory / 'scheduler.json'}", "--secure-port=0"]

    def _scheduler_configuration(self) -> dict[str, object]:
        return {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"kubeconfig": str(self.kubeconfig), "qps": 500, "burst": 1000},
        }


def kubeconfig(server: str, token: str, ca: bytes) -> dict[str, object]:
    """A kubeconfig with one context called ``local``."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority-data": base64.b64encode(ca).decode()}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "admin"}}],
        "current-context": "local",
    }
