import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/** The JDK's client as it comes: it asks for HTTP/2 by `Upgrade: h2c` on every connection that it opens. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        List<HttpRequest> requests = new ArrayList<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            requests.add(request(arguments[0], line.split("\t", -1)));
        }
        for (HttpRequest request : requests) { // on one connection
            print(client.send(request, BodyHandlers.ofByteArray()));
        }
        List<CompletableFuture<HttpResponse<byte[]>>> all = new ArrayList<>();
        for (HttpRequest request : requests) { // on many
            all.add(client.sendAsync(request, BodyHandlers.ofByteArray()));
        }
        for (CompletableFuture<HttpResponse<byte[]>> one : all) {
            print(one.get());
        }
    }

    /** Fields: method, path, how the body is sent (none, length, chunked), its base64, name and value of each header. */
    private static HttpRequest request(String base, String[] fields) {
        byte[] body = Base64.getDecoder().decode(fields[3]);
        BodyPublisher publisher = BodyPublishers.noBody();
        if (fields[2].equals("length")) {
            publisher = BodyPublishers.ofByteArray(body);
        } else if (fields[2].equals("chunked")) {
            publisher = BodyPublishers.fromPublisher(BodyPublishers.ofByteArray(body));
        }
        HttpRequest.Builder builder = HttpRequest.newBuilder(URI.create(base + fields[1]));
        builder.method(fields[0], publisher);
        for (int index = 4; index + 1 < fields.length; index += 2) {
            builder.header(fields[index], fields[index + 1]);
        }
        return builder.build();
    }

    private static void print(HttpResponse<byte[]> response) {
        String type = response.headers().firstValue("content-type").orElse("");
        String body = Base64.getEncoder().encodeToString(response.body());
        System.out.println(String.join("\t", response.version().toString(), "" + response.statusCode(), type, body));
    }
}
