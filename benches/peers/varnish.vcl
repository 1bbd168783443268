# Varnish: the shared cache of finished exports with Varnish's own means. Keys in @CAPITALS@ are filled in by
# measure.py. Equal requests at the same time are one by default.
vcl 4.1;

backend snyk {
    .host = "127.0.0.1";
    .port = "@UPSTREAM@";
}

sub vcl_recv {
    # Job status and starts go straight through: Varnish cannot see what is PENDING, so the path must tell.
    if (req.method == "GET" && req.url ~ "^/rest/(orgs|groups)/[^/]+/export/") {
        return (hash);
    }
    return (pass);
}

sub vcl_backend_fetch {
    # The credential in place of the client's.
    set bereq.http.Authorization = "token bench-credential";
}

sub vcl_backend_response {
    # Results are kept for as long as exportgate keeps them.
    if (!bereq.uncacheable && beresp.status == 200) {
        set beresp.ttl = 45m;
    }
    return (deliver);
}
