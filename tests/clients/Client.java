import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** java Client.java HTTP_1_1|HTTP_2: polls the job status, fetches the results call, downloads. */
class Client {
    static final String ROOT = System.getenv("SNYK_API") + "/rest/orgs/" + System.getenv("SNYK_ORG_ID");
    static final String BODY = "{\"data\":{\"type\":\"resource\",\"attributes\":{\"formats\":[\"csv\"],"
            + "\"dataset\":\"issues\",\"filters\":{\"introduced\":{\"from\":\"2026-01-01T00:00:00Z\"}}}}}";
    static HttpClient client;
    static HttpClient.Version version;

    static SSLContext trusting(String pem) throws Exception {
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (var file = new FileInputStream(pem)) {
            for (var certificate : CertificateFactory.getInstance("X.509").generateCertificates(file)) {
                store.setCertificateEntry("ca" + store.size(), certificate);
            }
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        var context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    static String send(HttpRequest.Builder request) throws Exception {
        HttpResponse<String> answer = client.send(request.build(), BodyHandlers.ofString());
        if (answer.statusCode() / 100 != 2) {
            throw new IllegalStateException(answer.uri().getPath() + ": " + answer.statusCode() + " " + answer.body());
        }
        if (answer.uri().toString().startsWith("https") && answer.version() != version) {
            throw new IllegalStateException("the gateway spoke " + answer.version());
        }
        return answer.body();
    }

    static HttpRequest.Builder call(String path) {
        return HttpRequest.newBuilder(URI.create(ROOT + path + "?version=2024-10-15"))
                .header("Authorization", "token " + System.getenv("SNYK_TOKEN"))
                .header("Content-Type", "application/vnd.api+json");
    }

    static Matcher matcher(String pattern, String text) {
        return Pattern.compile(pattern).matcher(text);
    }

    public static void main(String[] args) throws Exception {
        version = HttpClient.Version.valueOf(args[0]);
        client = HttpClient.newBuilder().version(version).sslContext(trusting(System.getenv("CURL_CA_BUNDLE"))).build();
        Matcher id = matcher("\"id\":\"([^\"]+)\"", send(call("/export").POST(BodyPublishers.ofString(BODY))));
        id.find();
        while (!send(call("/jobs/export/" + id.group(1))).contains("\"status\":\"FINISHED\"")) {
            Thread.sleep(1000);
        }
        Matcher link = matcher("\"url\":\"([^\"]+)\"", send(call("/export/" + id.group(1))));
        long files = 0;
        long rows = 0;
        for (; link.find(); files++) {
            rows += send(HttpRequest.newBuilder(URI.create(link.group(1)))).lines().count() - 1;
        }
        System.out.println(files + " files, " + rows + " rows");
    }
}
